"""The file of one destination."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.journal.offset import Destination, Offset, Target, load_offset, offset_path
from rldk_tracking.journal.reader import FileLines
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal.conftest import row, started


def test_it_comes_back(tmp_path: Path) -> None:
    path = offset_path(tmp_path / "run-2.jsonl", "slack-2")
    assert path.name == "run-2.slack-2.offset.json"
    offset = Offset.load(path)
    assert (offset.position, offset.closed) == (0, False)
    offset.move(70)
    offset.part, offset.trying, offset.to, offset.down_since = 2, True, {"run_id": "x"}, 12.5
    offset.reject(0, 10, "bad key")
    offset.say("here it is")
    assert Offset.load(path) == offset
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    offset.move(90)
    assert (offset.part, offset.trying) == (0, False)


def test_neighbours_that_are_refused_are_one_range(tmp_path: Path) -> None:
    offset = Offset(tmp_path / "o.json")
    for start, why in ((0, "a"), (10, "a"), (20, "b"), (40, "b"), (40, "b")):
        offset.reject(start, start + 10, why)
    assert offset.rejected == [(0, 20, "a"), (20, 30, "b"), (40, 50, "b")]
    for start in range(100, 10_000, 2):
        offset.reject(start, start + 1, "c")
    assert len(offset.rejected) == 1000
    assert offset.rejected[-1][1] == 9999, "none is forgotten"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"position": "x"}', '{"rejected": [1]}', '{"to": 3}', "[" * 99999]
)
def test_one_that_cannot_be_understood(tmp_path: Path, text: str) -> None:
    path = tmp_path / "o.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"o\.json cannot be understood"):
        Offset.load(path)


def test_unknown_fields_and_negative_positions(tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    path.write_text(json.dumps({"position": -3, "later": 1, "path": "/etc/passwd"}))
    offset = Offset.load(path)
    assert (offset.position, offset.path) == (0, path)


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    Offset(tmp_path / "missing" / "o.json").save()
    (tmp_path / "o.json").mkdir()
    Offset(tmp_path / "o.json").save()
    assert os.listdir(tmp_path) == ["o.json"]
    (tmp_path / "a").write_text("in the way")
    assert Offset.load(tmp_path / "a" / "o.json").position == 0


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing torn takes the file's place; its own blocks are written where the new state is no longer."""
    offset = Offset(tmp_path / "o.json", position=1000, fault="x" * 50)
    offset.save()
    real = os.open

    def no_new_file(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", no_new_file)
    offset.position, offset.fault = 2000, ""
    offset.save()
    assert Offset.load(offset.path).position == 2000
    offset.position, offset.fault = 3000, "y" * 100
    offset.save()
    assert Offset.load(offset.path).position == 2000
    monkeypatch.undo()
    monkeypatch.setattr(os, "write", lambda descriptor, data: 5)
    offset.save()
    assert Offset.load(offset.path).position == 2000, "half a write is none"


SECRET = "https://hooks.slack.com/services/T0/B0/SECRET"


def test_what_is_handed_over() -> None:
    target = Destination("slack-2", SlackNotifier("https://hooks.slack.com/services/T0/B0/x")).target()
    assert (target.id, target.tracker, target.to) == ("slack-2", "slack", {"min_severity": "warning"})
    assert target.secrets == {"url": "https://hooks.slack.com/services/T0/B0/x"}


def test_a_repr_shows_no_secret() -> None:
    target = Target("slack", "slack", {"min_severity": "critical"}, {"url": SECRET})
    assert "SECRET" not in repr(target)
    tracker = target.connect({"min_severity": "info"})
    assert tracker.address()["min_severity"] == "info", "what was found out since goes before"
    with pytest.raises(ValueError, match="telegraph"):
        Target("x", "telegraph", {}).connect({})


@pytest.mark.parametrize(("tracker", "at_the_end"), [("slack", True), ("mlflow", False)])
def test_an_offset_that_is_lost_repeats_no_message(tmp_path: Path, tracker: str, at_the_end: bool) -> None:
    journal = started(tmp_path)
    journal.row(1, row(1))
    journal.close()
    offset_path(journal.path, "x").write_text("{")
    offset = load_offset(journal.path, Target("x", tracker, {}), FileLines(journal.path), logging.getLogger("x"))
    assert offset.position == (journal.size if at_the_end else 0)


def test_a_refusal_is_forgotten(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.close()
    target, lines, log = Target("x", "mlflow", {}), FileLines(journal.path), logging.getLogger("x")
    offset = load_offset(journal.path, target, lines, log)
    offset.refused = True
    offset.save()
    assert not load_offset(journal.path, target, lines, log).refused
