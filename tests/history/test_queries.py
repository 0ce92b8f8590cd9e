"""What is asked about runs is answered from their journals and logs, and from nowhere else."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.explain import explain
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.watched import as_data, watched_rules
from rldk_tracking.history import queries
from rldk_tracking.history.queries import Runs
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.journal.courier import append_alerts
from rldk_tracking.journal.journal import Journal
from rldk_tracking.rollout import RunInfo
from tests.cli.test_replay import log
from tests.cli.test_watch import ENOUGH, GONE_PID
from tests.journal.conftest import an_alert

KL = "rldk/kl/ref_k3"


def watched(folder: Path, fires_at: int = 12, beta: float = 0.02, steps: int = 40, **begin: Any) -> Path:
    """The output folder of a run that was watched: a KL that peaks where its alert fires, which is open at the end."""
    journal = Journal.open(folder / "_rldk", [])
    rules = as_data(watched_rules(builtin_rules().values()))
    journal.begin(RunInfo(name=folder.name, trainer="GRPOTrainer", config={"beta": beta}), 1, rules, None)
    fired = an_alert(fires_at, first_step=fires_at - 2, key=KL, evidence={"usual": 0.05})
    for step in range(1, steps + 1):
        row = {KL: 0.9 if step == fires_at else 0.01 * step, "rldk/reward/mean": step / 10, "rldk/health/score": 0.5}
        found = {fires_at: [fired], 30: [replace(an_alert(30, "reward.drop"), state="resolved")]}.get(step, [])
        found += [an_alert(25, "reward.drop")] if step == 25 else []
        journal.row(step, row | ENOUGH, found)
    if not begin:
        journal.end("finished", steps)
    journal.close()
    if begin:
        first, *others = journal.path.read_text().splitlines()
        journal.path.write_text("\n".join([json.dumps(json.loads(first) | begin), *others]) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that were watched, and a log that was not; beside it, a folder with another run."""
    root = tmp_path_factory.mktemp("agents")
    for name in ("runs", "secret"):
        (root / name).mkdir()
    watched(root / "runs" / "one")
    watched(root / "runs" / "two", fires_at=20, beta=0.1)
    log(root / "runs" / "other.jsonl", [0.2 + 0.005 * step for step in range(60)])
    watched(root / "secret" / "run")
    return root


@pytest.fixture
def runs(folder: Path) -> Runs:
    return Runs([str(folder / "runs")])


def test_every_run_is_listed_once(folder: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = runs.list_runs()
    assert {run["run"] for run in listed["runs"]} == {str(folder / "runs" / n) for n in ("one", "two", "other.jsonl")}
    assert [run["changed"] for run in listed["runs"]] == sorted(
        (run["changed"] for run in listed["runs"]), reverse=True
    )
    below = runs.list_runs(str(folder / "runs" / "one"))
    assert [run["run"] for run in below["runs"]] == [str(folder / "runs" / "one")]
    monkeypatch.setattr(queries, "MOST_RUNS", 2)
    assert runs.list_runs()["left_out"] == 1


def test_what_a_training_leaves_is_one_run(tmp_path: Path) -> None:
    for name in (
        "a/checkpoint-5/trainer_state.json",
        "b/runs/now/events.out.tfevents.1",
        "c/.cache/x.jsonl",
        "d/e.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    listed = Runs([str(tmp_path)]).list_runs()["runs"]
    assert {run["run"] for run in listed} == {str(tmp_path / "a"), str(tmp_path / "b" / "runs" / "now")}


def test_a_verdict_is_that_of_a_replay_with_what_is_open(folder: Path, runs: Runs) -> None:
    found = runs.verdict(str(folder / "runs" / "one"))
    assert (found["verdict"], found["status"], found["step"], found["rows"]) == ("warning", "finished", 40, 40)
    assert (found["open"], found["over"]) == (["kl.high"], ["reward.drop"])
    assert found["sentence"] == "Finished, step 40. Warning: kl.high since step 10."
    assert "judged 3, warming up 0, no data 0" in found["notes"]
    healthy = runs.verdict(str(folder / "runs" / "other.jsonl"))
    assert (healthy["verdict"], healthy["status"], healthy["open"]) == ("healthy", "over", [])


def test_a_training_that_is_gone_has_crashed_and_one_that_goes_on_runs(tmp_path: Path) -> None:
    watched(tmp_path / "gone", pid=GONE_PID, created=1.0)
    watched(tmp_path / "alive", note="no end")
    runs = Runs([str(tmp_path)])
    gone, alive = (runs.verdict(str(tmp_path / name)) for name in ("gone", "alive"))
    assert (gone["status"], gone["verdict"]) == ("crashed", "critical") and "run.crashed" in gone["open"]
    assert (alive["status"], alive["verdict"]) == ("running", "warning")


def test_an_alert_comes_with_its_evidence_and_the_values_around_it(folder: Path, runs: Runs) -> None:
    (alert,) = runs.open_alerts(str(folder / "runs" / "one"))["alerts"]
    assert (alert["rule"], alert["first_step"], alert["evidence"]) == ("kl.high", 10, {"usual": 0.05})
    assert [step for step, _ in alert["around"]] == [*range(5, 18)]
    assert dict(alert["around"])[12] == 0.9
    both = runs.open_alerts(str(folder / "runs" / "one"), also_over=True)["alerts"]
    assert [(alert["rule"], alert.get("ended")) for alert in both] == [("kl.high", None), ("reward.drop", 30)]
    assert "around" not in both[1], "it names no series"


def test_a_series_is_thinned_and_keeps_its_peak(folder: Path, runs: Runs) -> None:
    run = str(folder / "runs" / "one")
    whole = runs.series(run, KL)
    assert whole["of"] == len(whole["points"]) == 40
    few = runs.series(run, KL, most=6)
    assert len(few["points"]) <= 6 and (12, 0.9) in few["points"] and few["of"] == 40
    assert [step for step, _ in runs.series(run, KL, first_step=5, last_step=7)["points"]] == [5, 6, 7]
    assert runs.series(run)["last"]["rldk/reward/mean"] == (40, 4.0)
    with pytest.raises(ValueError, match="no series 'rldk/kl/ref_k'; did you mean rldk/kl/ref_k3"):
        runs.series(run, "rldk/kl/ref_k")


def test_no_answer_is_longer_than_a_reader_can_take(tmp_path: Path) -> None:
    watched(tmp_path / "long", steps=1200)
    points = Runs([str(tmp_path)]).series(str(tmp_path / "long"), KL, most=10**9)["points"]
    assert 400 <= len(points) <= 500


def test_two_runs_part_where_their_alerts_do(folder: Path, runs: Runs) -> None:
    one, two = (str(folder / "runs" / name) for name in ("one", "two"))
    found = runs.compare(one, two)
    assert [run["run"] for run in found["runs"]] == [one, two]
    assert found["alerts_that_differ"] == [
        {"rule": "kl.high", "first_step_and_severity": [(10, "warning"), (18, "warning")]}
    ]
    assert found["settings_that_differ"] == {"beta": ["0.02", "0.1"]}
    assert found["last_values"]["rldk/reward/mean"] == [4.0, 4.0]
    unlike = runs.compare(one, str(folder / "runs" / "other.jsonl"))
    assert [alert["rule"] for alert in unlike["alerts_that_differ"]] == ["kl.high", "reward.drop"]
    assert unlike["alerts_that_differ"][0]["first_step_and_severity"][1] is None
    assert unlike["last_values"][KL] == [pytest.approx(0.4), None]


def test_runs_part_where_a_rule_fired_first_not_where_it_came_again(folder: Path, tmp_path: Path) -> None:
    again = watched(tmp_path / "again")
    alerts = [replace(an_alert(41), state="resolved"), an_alert(45)]
    append_alerts(again / "_rldk" / "run.jsonl", alerts)
    runs = Runs([str(folder), str(tmp_path)])
    assert runs.compare(str(folder / "runs" / "one"), str(again))["alerts_that_differ"] == []


def test_a_rule_is_explained_as_the_command_does(runs: Runs) -> None:
    assert runs.explain_rule(" KL.high ") == explain("kl.high")


@pytest.mark.parametrize(
    "name", ["secret/run", "secret", "", "runs/../secret/run", "runs/link", "runs/linked", "no/such"]
)
def test_what_lies_outside_is_refused(name: str, folder: Path, runs: Runs) -> None:
    for link, to in (("link", folder / "secret" / "run"), ("linked/run.jsonl", folder / "secret/run/_rldk/run.jsonl")):
        if not (folder / "runs" / link).exists():
            (folder / "runs" / link).parent.mkdir(exist_ok=True)
            (folder / "runs" / link).symlink_to(to)
    for ask in (runs.verdict, runs.open_alerts, runs.series, runs.list_runs):
        with pytest.raises(PermissionError, match="outside of what this server may read"):
            ask(str(folder / name))
    for other in ("mlflow:123", "wandb:a/b/c", "https://store.test/run"):
        with pytest.raises(PermissionError, match="outside"):
            runs.verdict(other)


def test_a_store_is_read_as_far_as_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "runs_of", lambda store: {"mlflow:experiment/mine": ["mlflow:1", "mlflow:2"]}[store])
    runs = Runs(["mlflow:experiment/mine"])
    assert runs.list_runs() == {"runs": [{"run": "mlflow:1"}, {"run": "mlflow:2"}]}
    with pytest.raises(PermissionError, match="mlflow:3: outside"):
        runs.verdict("mlflow:3")
    with pytest.raises(PermissionError, match="outside"):
        runs.verdict(os.devnull)


def test_sources_and_rules_are_checked_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError, match="no such file or folder"):
        Runs([str(tmp_path / "none")])
    with pytest.raises(ValueError, match="unknown preset"):
        Runs([str(tmp_path)], "lax")


def test_numbers_of_a_log_may_be_none(tmp_path: Path) -> None:
    path = log(tmp_path / "log.jsonl", [0.1] * 20 + [math.nan])
    found = Runs([str(tmp_path)]).open_alerts(str(path), also_over=True)
    assert any(alert["severity"] == "critical" for alert in found["alerts"])
