from __future__ import annotations

import functools
import gc
import json
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from rldk_tracking.ahead import Ahead
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.rollout import Rollout, RunInfo
from rldk_tracking.run import Run
from rldk_tracking.settings import Settings
from rldk_tracking.sources.base import Observation
from rldk_tracking.trackers.base import Row, UnavailableError
from rldk_tracking.trackers.draft import drafts
from rldk_tracking.trackers.memory import InMemoryTracker


class Trainer:
    """Stands for a trainer as a key, nothing else."""


class Member:
    """Stands for a monitor."""

    def __init__(self) -> None:
        self.ended = 0

    def end(self, run: Run) -> None:
        self.ended += 1


def run_of(**settings: Any) -> tuple[Run, InMemoryTracker]:
    tracker = InMemoryTracker()
    return Run(Settings(trackers=[tracker], **settings)), tracker


def test_a_step_is_closed_when_every_monitor_has_reported() -> None:
    run, tracker = run_of(strict=True)
    one, two = Member(), Member()
    run.join(one, run.settings)
    run.join(two, run.settings)
    run.add({"rldk/train/loss": 1.0})
    run.reported(one, 1)
    assert tracker.series == {}
    run.add({"rldk/grad/norm": 2.0})
    run.reported(two, 1)
    assert tracker.series["rldk/train/loss"] == [(1, 1.0)]
    assert tracker.series["rldk/grad/norm"] == [(1, 2.0)]
    run.leave(one, 1)
    assert not run.closed and (one.ended, two.ended) == (0, 0), "it ends itself, and then leaves"
    run.close("crashed")
    assert run.closed and (one.ended, two.ended) == (0, 1), "nobody told the other that training is over"
    run.close("finished")
    assert two.ended == 1


def test_a_task_belongs_to_the_first_that_claims_it() -> None:
    run, _ = run_of()
    one, two = Trainer(), Trainer()
    assert run.claim("rollouts", one)
    assert not run.claim("rollouts", two)
    assert run.claim("rollouts", one)
    del one
    gc.collect()
    assert run.claim("rollouts", two), "its holder is gone"


def test_the_verdict_comes_beside_the_training_and_reading_waits_for_it() -> None:
    before = set(threading.enumerate())
    run, tracker = run_of()
    for step in (1, 2, 3):
        run.add({"rldk/train/loss": float(step)})
        run.finish(step)
    assert run.latest["rldk/train/loss"] == 3.0
    assert run.latest_step == 3
    run.close("finished")
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [1, 2, 3]
    assert [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("rldk")] == []


class Distant(InMemoryTracker):
    """One whose calls wait on disk."""

    name: ClassVar[str] = "distant"
    threaded: ClassVar[bool] = True


def held(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Steps of which a kill would leave this much."""
    found = [record for path in folder.rglob("*.draft") for record in drafts(path, after=0)]
    return [(record["step"], record["metrics"]) for record in found]


def test_what_is_known_of_a_step_is_on_disk_while_its_row_is_computed(tmp_path: Path) -> None:
    gate, tracker = threading.Event(), Distant()
    run = Run(Settings(trackers=[tracker]), RunInfo(output_dir=str(tmp_path)))
    run.followers.append(lambda step, row: {"rldk/gate": float(gate.wait(10))})
    for step in (1, 2):
        run.add({"rldk/train/loss": float(step), "rldk/grad/norm": torch.tensor(2.0)})
        run.finish(step)
    assert [(step, row["rldk/train/loss"]) for step, row in held(tmp_path)] == [(1, 1.0), (2, 2.0)]
    assert held(tmp_path)[0][1]["rldk/grad/norm"] == 2.0
    gate.set()
    run.add({"rldk/train/loss": 3.0})
    run.finish(3, wait=True)
    gate.clear()
    run.add({"rldk/train/loss": 4.0})
    run.finish(4)
    assert [step for step, _ in held(tmp_path)] == [4]
    gate.set()
    run.close("finished")
    assert held(tmp_path) == []
    assert tracker.series["rldk/train/loss"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


SCORED = Rollout(mask=torch.ones(4, 2, dtype=torch.bool), scores=torch.tensor([1.0, 2.0, 3.0, 6.0]))


def rows_on_disk(folder: Path) -> list[dict[str, Any]]:
    """Whole rows that a kill would leave."""
    records = [
        json.loads(line) for path in folder.rglob("undelivered-*.jsonl") for line in path.read_text().splitlines()
    ]
    return [record["metrics"] for record in records if record["type"] == "metrics"]


class Away(Distant):
    """One that takes nothing as long as nobody lets it."""

    let: threading.Event

    def log_rows(self, rows: Sequence[Row]) -> None:
        if not self.let.is_set():
            raise UnavailableError("not yet")
        super().log_rows(rows)


def away() -> Away:
    tracker = Away()
    tracker.let = threading.Event()
    return tracker


def test_a_step_whose_rollout_was_read_ahead_is_judged_and_on_disk_at_once(tmp_path: Path) -> None:
    tracker, made, heard = away(), [], []
    run = Run(Settings(trackers=[tracker]), RunInfo(output_dir=str(tmp_path)))
    run.open()
    threads: list[threading.Thread] = []
    run.followers.append(lambda step, row: (threads.append(threading.current_thread()), {})[1])
    run.listeners.append(lambda alert: heard.append(threading.current_thread()))
    observation = Observation(made=functools.cache(lambda: (made.append(1), (SCORED, None))[1]))
    run.read_ahead(observation)
    settled(run)
    run.observation = Observation({"rldk/train/loss": 0.5}, observation.made)
    run.add({"rldk/train/loss": 0.5, "rldk/reward/mean": 99.0, "rldk/nan/weights": 1.0})
    run.afterwards(lambda: heard.append(threading.current_thread()))
    run.finish(1)
    [row] = rows_on_disk(tmp_path)
    assert (row["rldk/train/loss"], row["rldk/reward/mean"], row["rldk/alerts/firing"]) == (0.5, 3.0, 1.0)
    assert "rldk/system/overhead_fraction" in row and held(tmp_path) == []
    assert run.latest == row
    tracker.let.set()
    run.close("finished")
    assert tracker.series["rldk/reward/mean"] == [(1, 3.0)]
    assert made == [1] and threads == [threading.current_thread()]
    assert [thread.name for thread in heard] == ["rldk-judge"] * 2, "what has time is not waited for"


@pytest.mark.parametrize("enough", [0.0, 60.0])
def test_a_step_that_has_waited_enough_is_judged_beside_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: float
) -> None:
    monkeypatch.setattr("rldk_tracking.run.ENOUGH", enough)
    tracker = away()
    run = Run(Settings(trackers=[tracker]), RunInfo(output_dir=str(tmp_path)))
    with run.shield.at("the beginning"):
        run.open()
    threads: list[str] = []
    run.followers.append(lambda step, row: (threads.append(threading.current_thread().name), {})[1])
    run.observation = Observation(made=functools.cache(lambda: (SCORED, None)))
    run.read_ahead(run.observation)
    settled(run)
    with run.shield.at("a step's end"):
        run.finish(1)
    tracker.let.set()
    assert run.latest["rldk/reward/mean"] == 3.0
    assert threads == [threading.current_thread().name if enough else "rldk-judge"]
    run.close("finished")


def test_a_fault_in_what_follows_a_step_keeps_nothing_else_from_following() -> None:
    run, tracker = run_of()
    done: list[int] = []
    run.afterwards(lambda: done.append(1 // 0))
    run.afterwards(lambda: done.append(2))
    run.add({"rldk/train/loss": 1.0})
    run.finish(1)
    assert run.latest["rldk/train/loss"] == 1.0
    run.close("finished")
    assert done == [2] and tracker.series["rldk/train/loss"] == [(1, 1.0)]


def test_what_still_goes_on_beside_is_not_waited_for(tmp_path: Path) -> None:
    """A function of the user's that takes long: the next step is kept as what is known of it, and judged in order."""
    gate, tracker = threading.Event(), away()
    run = Run(Settings(trackers=[tracker]), RunInfo(output_dir=str(tmp_path)))
    run.open()
    run.later(lambda: gate.wait(10) and None)
    run.release()
    ahead = Ahead(Observation(made=functools.cache(lambda: (SCORED, None))), run.open()[0], run.shield)
    ahead.compute()
    run.observation, run._ahead = ahead._observation, ahead
    run.finish(1)
    assert [step for step, _ in held(tmp_path)] == [1]
    assert held(tmp_path)[0][1]["rldk/reward/mean"] == 3.0
    gate.set()
    tracker.let.set()
    run.close("finished")
    assert tracker.series["rldk/reward/mean"] == [(1, 3.0)]


@pytest.mark.parametrize("has_waited", [False, True])
def test_a_device_is_read_at_once_where_the_trainer_has_waited_for_it(tmp_path: Path, has_waited: bool) -> None:
    gate, tracker = threading.Event(), away()
    run = Run(Settings(trackers=[tracker]), RunInfo(output_dir=str(tmp_path)))
    run.device, run.has_waited = torch.device("cuda"), has_waited
    run.open()
    run.observation = Observation(made=functools.cache(lambda: (SCORED, None)))
    run.read_ahead(run.observation)
    settled(run)
    if not has_waited:
        run.followers.append(lambda step, row: {"rldk/gate": float(gate.wait(10))})
    run.read_pending, run.read_probe = lambda: torch.tensor([2.0]), lambda values: {"rldk/grad/norm": values[0]}
    run.measure(lambda: {"rldk/throughput/step_seconds": 0.5})
    run.finish(1)
    [row] = rows_on_disk(tmp_path) if has_waited else [row for _, row in held(tmp_path)]
    assert ("rldk/grad/norm" in row, "rldk/throughput/step_seconds" in row) == (has_waited, has_waited)
    assert row["rldk/reward/mean"] == 3.0
    gate.set()
    tracker.let.set()
    run.close("finished")
    for key, value in (("grad/norm", 2.0), ("throughput/step_seconds", 0.5)):
        assert tracker.series[f"rldk/{key}"] == [(1, value)]


def test_a_rollout_that_is_ready_opens_the_run() -> None:
    """TRL's PPO has no earlier event."""
    run, tracker = run_of()
    run.observation = Observation(made=functools.cache(lambda: (SCORED, None)))
    run.read_ahead(run.observation)
    run.finish(1)
    run.close("finished")
    assert tracker.series["rldk/reward/mean"] == [(1, 3.0)]


def test_what_was_read_ahead_of_another_rollout_is_not_this_steps() -> None:
    run, tracker = run_of()
    run.open()
    run.read_ahead(Observation(made=lambda: (SCORED, None)))
    run.observe(Rollout(mask=SCORED.mask, scores=2 * SCORED.scores))
    run.finish(1)
    run.finish(2)
    run.close("finished")
    assert tracker.series["rldk/reward/mean"] == [(1, 6.0)]


def test_a_rollout_alone_that_was_read_ahead_makes_a_row() -> None:
    run, tracker = run_of()
    run.open()
    run.observation = Observation(made=functools.cache(lambda: (SCORED, None)))
    run.read_ahead(run.observation)
    settled(run)
    run.finish(1)
    run.close("finished")
    assert tracker.series["rldk/reward/mean"] == [(1, 3.0)]
    assert [step for step, _ in tracker.series["rldk/system/overhead_fraction"]] == [1]


def test_nothing_is_read_ahead_where_faults_are_to_be_seen() -> None:
    """They belong to the step's end, on the training thread."""
    run, _ = run_of(strict=True)
    run.open()
    run.read_ahead(Observation(made=lambda: 1 / 0))  # type: ignore[arg-type, return-value]
    settled(run)
    assert run.shield.faults == 0
    run.close("finished")


def test_who_waits_for_a_verdict_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read ahead lets the training pass, which here waits for it."""
    monkeypatch.setattr("rldk_tracking.isolation.COURTESY", 60.0)
    run, tracker = run_of(on_critical="stop")
    run.open()
    run.observation = Observation(made=functools.cache(lambda: (time.sleep(0.2), (SCORED, None))[1]))
    with run.shield.at("the step's end"):
        run.read_ahead(run.observation)
        begin = time.monotonic()
        run.finish(1)
        assert time.monotonic() - begin < 10
    assert tracker.series["rldk/reward/mean"] == [(1, 3.0)]
    run.close("finished")


def settled(run: Run) -> None:
    """Wait for what is beside the training."""
    assert run.latest == {}


def test_a_step_with_nothing_in_it_makes_no_row() -> None:
    run, tracker = run_of(strict=True)
    run.finish(1)
    assert tracker.series == {}
    run.close("finished")


def test_what_is_not_finite_is_no_value() -> None:
    run, tracker = run_of(strict=True)
    run.add({"rldk/train/loss": float("nan"), "rldk/grad/norm": 1.0})
    run.finish(1)
    assert "rldk/train/loss" not in tracker.series
    run.close("finished")


def test_the_status_follows_the_alerts() -> None:
    run, tracker = run_of(strict=True)
    run.add({"rldk/nan/weights": 0.0})
    run.finish(1)
    run.add({"rldk/nan/weights": 2.0})
    run.finish(2)
    run.close("finished")
    assert [status for _, status in tracker.statuses] == ["running", "critical", "finished"]
    assert [alert.rule for alert in run.alerts] == ["nan.weights"]
    assert run.latest["rldk/alerts/firing"] == 1.0


def test_a_stop_is_known_when_the_step_is_closed() -> None:
    run, tracker = run_of(on_critical="stop")
    run.add({"rldk/nan/weights": 1.0})
    run.finish(4)
    assert run.stop is not None and run.stop.rule == "nan.weights"
    with pytest.raises(TrainingStopped, match="step 4"):
        run.raise_stop()
    assert run.closed
    assert tracker.statuses[-1] == (4, "stopped")


def test_no_stop_no_exception_of_that_kind() -> None:
    run, _ = run_of()
    with pytest.raises(ValueError, match="No alert"):
        run.raise_stop()


def test_a_trainer_that_trains_twice_has_two_runs() -> None:
    trainer = Trainer()
    settings = Settings(trackers=[InMemoryTracker()])
    first = Run.of(trainer, settings, RunInfo())
    assert Run.of(trainer, settings, RunInfo()) is first, "before the first step another monitor may join"
    first.open()
    second = Run.of(trainer, settings, RunInfo())
    assert second is not first
    assert first.closed, "an exception had ended it"
    second.open()
    del second
    gc.collect()
    third = Run.of(trainer, settings, RunInfo())
    third.close("finished")
    tracker = settings.trackers[0]  # type: ignore[index]
    assert [status for _, status in tracker.statuses] == ["running", "crashed", "running", "crashed"]  # type: ignore[attr-defined]


def test_a_rollout_is_let_go_after_its_step() -> None:
    run, _ = run_of()
    scores = torch.rand(4)
    alive = weakref.ref(scores)
    run.observe(Rollout(mask=torch.ones(4, 2, dtype=torch.bool), scores=scores))
    run.finish(1)
    assert run.latest["rldk/reward/mean"] > 0
    del scores
    gc.collect()
    assert alive() is None
    run.close("finished")


def test_the_state_goes_on_in_another_run() -> None:
    run, _ = run_of(strict=True)
    run.add({"rldk/nan/weights": 1.0})
    run.finish(7)
    state = run.state()
    run.close("finished")
    resumed, tracker = run_of(strict=True)
    resumed.load_state(state)
    resumed.add({"rldk/nan/weights": 1.0})
    resumed.finish(8)
    assert tracker.alerts == [], "it was said already"
    assert tracker.series["rldk/alerts/firing"] == [(8, 1.0)]
    resumed.close("finished")


def test_a_last_row_of_the_same_step_adds_to_what_is_known() -> None:
    run, tracker = run_of(strict=True)
    run.add({"rldk/train/loss": 1.0})
    run.finish(5)
    run.conclude({"rldk/checkpoint/score": 0.5}, 5)
    assert run.latest["rldk/train/loss"] == 1.0
    assert run.latest["rldk/checkpoint/score"] == 0.5
    assert tracker.series["rldk/train/loss"] == [(5, 1.0)]
    run.close("finished")
