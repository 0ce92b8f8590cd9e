"""Replay: the same verdict as live, from what a run left behind."""

from __future__ import annotations

import json

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import row_rules
from rldk_tracking.history.handwritten import NAMES
from rldk_tracking.history.replay import LOGGED, not_logged, replay
from rldk_tracking.history.run_history import UnreadableSourceError, history, row_of
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.sources.aliases import ALIASES, EVALUATED


def rows(n: int = 80, fault: int = 50) -> list[dict[str, float]]:
    return [
        {
            "step": 10 * t,
            "reward": 0.4 + 0.02 * ((t * 7) % 5),
            "reward_std": 0.2,
            "frac_reward_zero_std": 0.1,
            "completions/clipped_ratio": 0.9 if t >= fault else 0.02,
            "kl": 0.02,
        }
        for t in range(n)
    ]


def test_live_is_replay() -> None:
    past = history("a run", rows())
    engine = Engine(row_rules(rules_for("safe")))
    live = [(entry.index, alert) for entry in past.entries for alert in engine.update(entry.step, entry.row)]
    report = replay(past)
    assert report.alerts == live and live
    assert report.unknown == engine.unknown() and report.scores == engine.scores()


def test_alerts_have_the_row_and_the_step() -> None:
    report = replay(history("a run", rows()))
    ((row, alert),) = report.alerts
    assert alert.rule == "length.truncated" and 50 <= row <= 60 and alert.step == 10 * row
    assert (report.verdict, report.exit_code, report.rows) == ("warning", 1, 80)
    assert not {"run.crashed", "run.hung"} & set(report.unknown)
    assert "nan.weights" in report.unknown and "length.truncated" not in report.unknown


@pytest.mark.parametrize(("fault", "verdict", "code"), [(99, "healthy", 0), (50, "warning", 1)])
def test_verdict_and_exit_code(fault: int, verdict: str, code: int) -> None:
    report = replay(history("a run", rows(fault=fault)))
    assert (report.verdict, report.exit_code) == (verdict, code)


def test_nan_is_critical_and_named_with_its_consequences() -> None:
    broken = [row | {"grad_norm": 1.0 if row["step"] < 600 else "nan"} for row in rows(80, 60)]
    report = replay(history("a run", broken))
    assert report.verdict == "critical" and report.exit_code == 2
    assert report.held_back["length.truncated"] == "nan.gradients"


def test_the_report_is_plain_data() -> None:
    data = json.loads(json.dumps(replay(history("a run", rows())).as_dict(), allow_nan=False))
    assert set(data) >= {"verdict", "source", "rows", "alerts", "unknown"}
    assert set(data["alerts"][0]) >= {
        "rule", "severity", "state", "step", "row", "value", "threshold", "message", "advice",
    }  # fmt: skip


def test_rules_and_settings_can_be_given() -> None:
    past = history("a run", rows(), settings={"max_completion_length": 64})
    report = replay(past, overrides={"length.truncated": {"threshold": 0.95}})
    assert report.alerts == []
    report = replay(past, context={"response_length": 128})
    assert report.alerts[0][1].advice.startswith("(configured: max_completion_length 64, response_length 128)")


def test_a_source_that_cannot_be_read_says_why(tmp_path) -> None:
    with pytest.raises(UnreadableSourceError, match="no such file"):
        replay(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UnreadableSourceError, match="1 entries, and no name in them.*a"):
        replay(tmp_path / "empty.jsonl")


def test_names_of_ones_own(tmp_path) -> None:
    (tmp_path / "run.jsonl").write_text("\n".join(json.dumps({"my_cut": 0.9}) for _ in range(30)))
    report = replay(tmp_path / "run.jsonl", aliases={"my_cut": "rldk/length/truncated_fraction"})
    assert [alert.rule for _, alert in report.alerts] == ["length.truncated"]


def test_an_alias_is_for_a_series_that_somebody_reads(tmp_path) -> None:
    (tmp_path / "run.jsonl").write_text("\n".join(json.dumps({"foo": 0.9}) for _ in range(30)))
    own = {"foo": "rldk/nosuch"}
    with pytest.raises(ValueError, match=r"aliases\['foo'\]: there is no series 'rldk/nosuch', and no rule reads it"):
        replay(tmp_path / "run.jsonl", aliases=own)
    rule = Rule(id="team.foo", keys=("rldk/nosuch",), condition="level", parameters={"threshold": 0.5})
    report = replay(tmp_path / "run.jsonl", rules=[rule], aliases=own)
    assert [alert.rule for _, alert in report.alerts] == ["team.foo"]


def test_every_key_of_a_log_is_one_that_some_name_gives() -> None:
    names = [*ALIASES, *NAMES, *(f"eval_{name}" for name in EVALUATED), "kl", "reward_std"]
    given: set[str] = set()
    for name in names:
        for entry in ({name: 1.0}, {name: float("nan")}, {name: 1.0, "step_time": 1.0}):
            given |= set(row_of(entry))
    functions = {key for key in given if key.startswith("rldk/reward/function/")}
    assert given - functions == LOGGED
    assert all(lookup(key) for key in LOGGED)


def test_what_only_the_callback_sees() -> None:
    rules = row_rules(rules_for("safe"))
    never = not_logged(rules, [rule.id for rule in rules])
    assert {"nan.weights", "grad.flow", "update.frozen", "memory.high", "checkpoint.corrupt", "tracker.down"} <= set(
        never
    )
    assert not {
        "kl.high",
        "reward.collapse",
        "reward.no_signal",
        "nan.loss",
        "grad.explosion",
        "health.unstable",
    } & set(never)
    assert not_logged(rules, ["nan.weights", "kl.high"]) == ("nan.weights",)


def test_a_series_of_the_users_own_may_come_in_any_log() -> None:
    rule = Rule(id="mine.own", keys=("my/number",), condition="level", parameters={"threshold": 1.0})
    assert not_logged([rule], ["mine.own"]) == ()
