"""What the trainer's side makes of the files of its destinations."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rldk_tracking.journal import delivery as module
from rldk_tracking.journal.delivery import Delivery, say_what_is_left, wait_for
from rldk_tracking.journal.offset import Destination, Offset, offset_path
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.journal.conftest import row, started


def test_a_destination_has_everything_when_it_is_closed_at_the_end(tmp_path: Path) -> None:
    journal = started(tmp_path)
    known = Delivery(journal, {})
    offset = Offset(offset_path(journal.path, "x"))
    assert not known.is_done("x")
    for closed, position, done in (
        (False, journal.size, False),
        (True, journal.size - 1, False),
        (True, journal.size, True),
    ):
        offset.closed, offset.position = closed, position
        offset.save()
        assert known.read("x") == offset
        assert known.is_done("x") is done
    journal.row(1, row(1))
    assert not known.is_done("x"), "it goes on"
    journal.close()


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    journal = started(tmp_path)
    known = Delivery(journal, {})
    Offset(offset_path(journal.path, "x"), errors=3).save()
    first = known.read("x")
    assert first.errors == 3
    offset_path(journal.path, "x").write_text("torn")
    assert known.read("x") is first
    offset_path(journal.path, "x").unlink()
    assert known.read("x") is first
    assert known.read("y").position == 0 and "y" not in known.offsets
    journal.close()


def delivery_in(folder: Path, **offset: object) -> Delivery:
    journal = started(folder)
    journal.row(1, row(1))
    found = Delivery(journal, {}, {"x": Destination("x", InMemoryTracker())})
    found.offsets["x"] = Offset(offset_path(journal.path, "x"), **offset)  # type: ignore[arg-type]
    return found


def test_until_all_have_everything(tmp_path: Path) -> None:
    journals, looks = [delivery_in(tmp_path / name) for name in "ab"], [0]

    def look() -> None:
        looks[0] += 1
        if looks[0] > len(journals):
            return
        offset = journals[looks[0] - 1].offsets["x"]
        offset.position, offset.closed = 10**9, True

    assert wait_for(journals, look, 10) == []
    assert looks == [2]


def test_together_no_longer_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNANSWERED_S", 0.3)
    down = [delivery_in(tmp_path / name, down_since=1.0) for name in "abcd"]
    start = time.monotonic()
    assert wait_for(down, lambda: None, 10) == down
    assert 0.25 < time.monotonic() - start < 0.8
    answering = delivery_in(tmp_path / "e")
    start = time.monotonic()
    assert wait_for([*down, answering], lambda: None, 0.6) == [*down, answering]
    assert 0.55 < time.monotonic() - start < 1.2, "one that answers gets all of the time"
    answering.is_unserved = True
    assert not answering.is_answering("x")


def test_what_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    delivery = delivery_in(tmp_path / "a")
    delivery.journal.deleted = 7
    say_what_is_left(delivery)
    said = capsys.readouterr().err
    assert f"not all of this run has reached x; the rest lies in {delivery.journal.path}; 7 records were in a" in said
    assert "lost" not in said
