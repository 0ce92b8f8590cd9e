"""A row is judged and written, and what rules ask for is said."""

from __future__ import annotations

import pytest

from rldk_tracking.health.rule import Rule
from rldk_tracking.journal.judge import SAVE, STOP, Judge
from rldk_tracking.journal.publisher import Publisher
from rldk_tracking.journal.settings import Settings
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.memory import InMemoryTracker

LENGTH = "rldk/length/mean"


def judge_of(severity: str = "warning", **settings: object) -> tuple[Judge, InMemoryTracker]:
    rule = Rule(
        id="a.long",
        keys=(LENGTH,),
        condition="level",
        parameters={"threshold": 10.0},
        severity=severity,
        clear_after=1,
        actions=settings.pop("actions", ()),
    )
    tracker, publisher = InMemoryTracker(), Publisher()
    publisher.open([rule], RunInfo(), [tracker], None)
    return Judge([rule], Settings(**settings), {}, publisher), tracker


def test_a_row_gets_its_scores_and_is_written_with_its_alerts() -> None:
    judge, tracker = judge_of()
    row = {LENGTH: 20.0}
    assert judge.row(1, row) == 0
    assert row["rldk/alerts/firing"] == 1.0 and row["rldk/health/score"] == 0.5
    assert tracker.series[LENGTH] == [(1, 20.0)] and [alert.rule for alert in tracker.alerts] == ["a.long"]
    assert tracker.statuses[-1] == (1, "warning")
    judge.row(2, {LENGTH: 1.0})
    assert [(alert.state, alert.step) for alert in judge.alerts] == [("firing", 1), ("resolved", 2)]
    assert tracker.statuses[-1] == (2, "running")


def test_a_row_says_how_many_rules_have_judged() -> None:
    judge, tracker = judge_of()
    judge.row(1, {"rldk/reward/mean": 1.0})
    judge.row(2, {LENGTH: 1.0})
    said = {key.removeprefix("rldk/alerts/"): points for key, points in tracker.series.items() if "rules_" in key}
    assert said == {
        "rules_judged": [(1, 0.0), (2, 1.0)],
        "rules_warming_up": [(1, 0.0), (2, 0.0)],
        "rules_without_data": [(1, 1.0), (2, 0.0)],
        "core_rules_judged": [(1, 0.0), (2, 1.0)],
    }


def test_what_became_known_of_an_earlier_step_is_judged_at_its_step_without_the_scores_of_now() -> None:
    judge, tracker = judge_of()
    for step in (4, 5):
        judge.row(step, {"rldk/train/loss": float(step)})
    late = {LENGTH: 20.0}
    judge.row(4, late)
    assert late == {LENGTH: 20.0}
    assert tracker.series[LENGTH] == [(4, 20.0)]
    assert [(alert.rule, alert.step) for alert in judge.alerts] == [("a.long", 4)]
    assert tracker.statuses[-1] == (5, "warning"), "the run is so now"
    assert judge._publisher.latest[0] == 5 and LENGTH not in judge._publisher.latest[1]
    row = {"rldk/train/loss": 6.0}
    judge.row(6, row)
    assert row["rldk/alerts/firing"] == 1.0 and row["rldk/health/score"] == 0.5


def test_an_empty_row_is_none() -> None:
    judge, tracker = judge_of()
    assert judge.row(1, {}) == 0 and tracker.series == {}


@pytest.mark.parametrize(("severity", "flags"), [("warning", 0), ("critical", STOP)])
def test_the_user_may_want_a_critical_alert_to_stop(severity: str, flags: int) -> None:
    judge, _ = judge_of(severity, on_critical="stop")
    assert judge.row(1, {LENGTH: 20.0}) == flags
    assert (judge.stop is not None) == bool(flags)
    assert judge.row(2, {LENGTH: 20.0}) == flags, "once asked for it stays so"


def test_an_alert_that_ends_asks_for_nothing_also_after_a_resume() -> None:
    before, _ = judge_of("critical")
    before.row(1, {LENGTH: 20.0})
    judge, _ = judge_of("critical", on_critical="stop", actions=("stop", "save"))
    judge.load_state(before.engine.state())
    assert judge.row(2, {LENGTH: 1.0}) == 0
    assert [alert.state for alert in judge.alerts] == ["resolved"] and judge.stop is None


def test_a_rule_may_ask_for_a_checkpoint() -> None:
    judge, _ = judge_of(actions=("save",))
    assert judge.row(1, {LENGTH: 20.0}) == SAVE
    assert judge.row(2, {LENGTH: 20.0}) == 0, "when it fires, not as long as it does"


def test_limits_of_the_user_are_series(caplog: pytest.LogCaptureFixture) -> None:
    judge, tracker = judge_of(goals={"max_kl_divergence": 0.1})
    judge.row(1, {LENGTH: 1.0})
    assert tracker.series["rldk/kl/limit"] == [(1, 0.1)]
    judge.load_state({"version": 99})
    assert "judging starts afresh" in caplog.text


def test_an_alert_with_more_consequences_acts_once() -> None:
    called: list[tuple[str, ...]] = []
    cause = Rule(
        id="a.long",
        keys=(LENGTH,),
        condition="level",
        parameters={"threshold": 10.0},
        silences=("b.*",),
        actions=(lambda alert: called.append(alert.consequences), "save"),
    )
    late = Rule(id="b.kl", keys=("rldk/kl/ref_k3",), condition="level", parameters={"threshold": 1.0})
    tracker, publisher = InMemoryTracker(), Publisher()
    publisher.open([cause, late], RunInfo(), [tracker], None)
    judge = Judge([cause, late], Settings(), {}, publisher)
    assert judge.row(1, {LENGTH: 20.0}) == SAVE
    assert judge.row(2, {LENGTH: 20.0, "rldk/kl/ref_k3": 2.0}) == 0
    assert [(alert.rule, alert.step, alert.consequences) for alert in judge.alerts] == [("a.long", 1, ("b.kl",))]
    assert [alert.notify for alert in tracker.alerts] == [True, False], "trackers are given it anew"
    assert called == [()]
