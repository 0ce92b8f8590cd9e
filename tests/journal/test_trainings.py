from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from rldk_tracking.journal.trainings import Trainings
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
