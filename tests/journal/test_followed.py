"""What the trainer's side makes of the files of its destinations."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.journal import followed as module
from rldk_tracking.journal.followed import Followed
from rldk_tracking.journal.offset import Offset, offset_path
from tests.journal.conftest import row, started


def test_a_destination_has_everything_when_it_is_closed_at_the_end(tmp_path: Path) -> None:
    journal = started(tmp_path)
    known = Followed(journal, {})
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


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = started(tmp_path)
    known = Followed(journal, {})
    Offset(offset_path(journal.path, "x"), errors=3).save()
    first = known.read("x")
    monkeypatch.setattr(module.Offset, "load", lambda path: pytest.fail("it was read again"))
    assert known.read("x") is first
    monkeypatch.undo()
    offset_path(journal.path, "x").write_text("torn")
    assert known.read("x") is first, "what cannot be read changes nothing"
    offset_path(journal.path, "x").unlink()
    assert known.read("x") is first
    assert known.read("y").position == 0
    journal.close()
