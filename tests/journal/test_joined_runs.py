"""What is said where a tracker has no run to join."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rldk_tracking.journal.joined_runs import Trainings
from rldk_tracking.journal.publisher import Publisher
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.memory import InMemoryTracker


class Placed(InMemoryTracker):
    """Says which run it writes to."""

    name: ClassVar[str] = "placed"

    def __init__(self, **address: str) -> None:
        super().__init__()
        self.to = address

    def address(self) -> Mapping[str, str]:
        return self.to


def joined(tracker: InMemoryTracker, trainer: str = "SFTTrainer", resumes: bool = False) -> tuple[Trainings, list[Any]]:
    trainings, tables = Trainings(), []
    trainings.join(tracker, trainer, resumes, lambda *call: tables.append(call))
    return trainings, tables


def test_trainings_of_one_run_are_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    first, nothing = joined(Placed(id="trainings-1", log="a"))
    assert (first.marks, nothing, caplog.records) == ({}, [], [])
    second, ((method, key, columns, rows, step),) = joined(Placed(id="trainings-1", log="b"), "GRPOTrainer")
    assert (method, key, len(columns), step) == ("log_table", "rldk/trainings", 3, 0)
    assert second.marks == {"rldk/system/training": 2.0}
    assert [row[:2] for row in rows] == [[1, "SFTTrainer"], [2, "GRPOTrainer"]] and rows[0][2] <= rows[1][2]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "(SFTTrainer)" in said and "(GRPOTrainer)" in said and "rldk/system/training = 2" in said


def test_several_trackers_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("trainings-5", "trainings-6"):
        joined(Placed(id=name))
    trainings, tables = Trainings(), []
    for name in ("trainings-5", "trainings-6"):
        trainings.join(Placed(id=name), "GRPOTrainer", False, lambda *call: tables.append(call))
    assert len(tables) == len(caplog.records) == 1


def test_what_goes_on_in_its_own_series_is_no_second_training(caplog: pytest.LogCaptureFixture) -> None:
    joined(Placed(id="trainings-7"))
    resumed, rows = joined(Placed(id="trainings-7"), resumes=True)
    assert (resumed.marks, rows, caplog.records) == ({}, [], [])


def test_another_run_is_another_count() -> None:
    joined(Placed(id="trainings-2"))
    assert joined(Placed(id="trainings-3"))[0].marks == {}


def test_what_does_not_say_its_run_or_takes_no_rows_is_not_counted() -> None:
    class Channel(Placed):
        takes_rows: ClassVar[bool] = False

    for tracker in (Placed(), Channel(id="trainings-4")):
        joined(tracker)
        assert joined(tracker)[0].marks == {}


class Lonely(Tracker):
    """A backend in which nobody has opened a run."""

    name = "lonely"
    how_to_join = "Call lonely.start() before train()."
    has_run = False

    @property
    def joined(self) -> bool:
        return self.has_run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        raise AssertionError("it has no run")


class Distant(Lonely):
    in_process = False


@pytest.mark.parametrize("tracker", [Lonely(), Distant()], ids=["here", "by the courier"])
def test_it_is_said_at_the_first_step_and_at_the_end(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(strict=True)
    publisher.open([], RunInfo(), [tracker], tmp_path)
    assert caplog.records == [], "its run may be opened before the first step"
    for step in (1, 2, 3):
        publisher.row(step, {"a": 1.0} | publisher.health(), [])
    (said,) = caplog.messages
    assert said.startswith("lonely has no run to write to, and until it has one it ")
    assert said.endswith("Call lonely.start() before train().")
    assert publisher.latest[1]["rldk/system/trackers_down"] == 1.0
    publisher.close("finished")
    _, end = caplog.messages
    assert end.startswith("lonely never had a run to write to: ")
    if tracker.in_process:
        assert "it gets no rows" in said and "it got no rows" in end
    else:
        assert f"has its rows in {tmp_path / 'run.jsonl'} alone" in said
        assert f"`rldk-tracking sync {tmp_path / 'run.jsonl'} --run-id RUN` sends them to a run" in end


def test_a_run_that_is_there_before_the_first_step(caplog: pytest.LogCaptureFixture) -> None:
    class Late(Lonely):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            rows.append(step)

    tracker, rows, publisher = Late(), [], Publisher(strict=True)  # type: ignore[var-annotated]
    publisher.open([], RunInfo(), [tracker], None)
    tracker.has_run = True
    publisher.join()
    publisher.row(1, {"a": 1.0} | publisher.health(), [])
    publisher.close("finished")
    assert rows == [1] and publisher.latest[1]["rldk/system/trackers_down"] == 0.0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_every_tracker_that_joins_a_run_says_what_to_do() -> None:
    mlflow = pytest.importorskip("rldk_tracking.trackers.mlflow")
    wandb = pytest.importorskip("rldk_tracking.trackers.wandb")
    assert "mlflow.start_run()" in mlflow.MLflowTracker.how_to_join
    assert "experiment=" in mlflow.MLflowTracker.how_to_join
    assert "wandb.init()" in wandb.WandbTracker.how_to_join
