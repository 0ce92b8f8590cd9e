"""Several runs, one message."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.trackers.base import LostAnswerError, UnavailableError
from rldk_tracking.trackers.digest import MOST_LINES, Digest


class Sent:
    """What was sent."""

    def __init__(self) -> None:
        self.digests: list[tuple[dict[str, list[str]], str, int]] = []
        self.fault: Exception | None = None

    def __call__(self, runs: Mapping[str, list[str]], severity: str, left_out: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.digests.append((dict(runs), severity, left_out))


def test_one_message_of_two_runs(tmp_path: Path) -> None:
    sent = Sent()
    first, second = Digest(tmp_path, 0.2), Digest(tmp_path, 0.2)
    first.add("a", "x", "warning")
    second.add("b", "y", "critical")
    first.add("a", "z", "info")
    second.send_what_is_due(sent)
    assert sent.digests == [], "it is not old enough"
    time.sleep(0.25)
    second.send_what_is_due(sent)
    first.send_what_is_due(sent)
    assert sent.digests == [({"a": ["x", "z"], "b": ["y"]}, "critical", 0)]


def test_nothing_is_added_to_a_digest_that_is_being_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, first, second = Sent(), Digest(tmp_path, 0), Digest(tmp_path, 0)
    monkeypatch.setattr("rldk_tracking.trackers.digest._LOCK_S", 0.0)
    first.add("a", "x", "warning")

    def send(*digest: Any) -> None:
        with pytest.raises(UnavailableError, match="sent by another run"):
            second.add("b", "y", "warning")
        sent(*digest)

    first.send_what_is_due(send)
    second.add("b", "y", "warning")
    second.send_what_is_due(sent)
    assert [runs for runs, _, _ in sent.digests] == [{"a": ["x"]}, {"b": ["y"]}]


def test_the_last_to_leave_sends_the_rest(tmp_path: Path) -> None:
    sent = Sent()
    first, second = Digest(tmp_path), Digest(tmp_path)
    first.add("a", "x", "warning")
    first.leave(sent)
    assert sent.digests == []
    second.leave(sent)
    second.leave(sent)
    assert sent.digests == [({"a": ["x"]}, "warning", 0)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def _killed(folder: Path) -> None:
    Digest(folder).add("killed", "x", "warning")
    os._exit(1)


def test_a_run_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join()
    sent = Sent()
    Digest(tmp_path).leave(sent)
    assert sent.digests == [({"killed": ["x"]}, "warning", 0)]


def test_what_is_not_taken_waits(tmp_path: Path) -> None:
    sent, digest = Sent(), Digest(tmp_path, 0)
    digest.add("a", "x", "warning")
    sent.fault = UnavailableError("away")
    with pytest.raises(UnavailableError):
        digest.send_what_is_due(sent)
    sent.fault = None
    digest.add("a", "y", "warning")
    digest.send_what_is_due(sent)
    assert sent.digests == [({"a": ["x", "y"]}, "warning", 0)]


def test_what_may_have_arrived_is_said_and_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent, digest = Sent(), Digest(tmp_path, 0)
    digest.add("a", "x", "warning")
    sent.fault = LostAnswerError("no answer")
    digest.send_what_is_due(sent)
    assert "a digest of 1 messages was not sent: no answer" in capsys.readouterr().err
    digest.add("a", "y", "warning")
    sent.fault = KeyboardInterrupt()  # as if it were killed
    with pytest.raises(KeyboardInterrupt):
        digest.send_what_is_due(sent)
    sent.fault = None
    digest.send_what_is_due(sent)
    assert sent.digests == []
    assert "may have been sent, and is not repeated" in capsys.readouterr().err
    digest.add("a", "z", "info")
    digest.send_what_is_due(sent)
    assert sent.digests == [({"a": ["z"]}, "info", 0)]


def test_many_messages_and_a_torn_line(tmp_path: Path) -> None:
    sent, digest = Sent(), Digest(tmp_path, 0)
    for number in range(MOST_LINES + 2):
        digest.add("a", str(number), "warning")
    with (tmp_path / "waiting.jsonl").open("a") as file:
        file.write('{"time": 1, "ru')
    digest.add("b", "behind it", "critical")
    digest.send_what_is_due(sent)
    ((runs, severity, left_out),) = sent.digests
    assert (len(runs["a"]), severity, left_out) == (MOST_LINES, "critical", 3)


def test_the_folder_names_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Sent()
    Digest.of("json://host/SECRET", 0, str(tmp_path)).add("a", "x", "warning")
    (folder,) = tmp_path.iterdir()
    assert not any("SECRET" in f"{path} {path.read_text()}" for path in folder.iterdir())
    Digest.of("json://host/other", 0, str(tmp_path)).send_what_is_due(sent)
    assert sent.digests == [], "that is another channel"
    Digest.of("json://host/SECRET", 0, str(tmp_path)).send_what_is_due(sent)
    assert len(sent.digests) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Digest.of("json://host/SECRET", 0)
    (own,) = tmp_path.glob("rldk-digest-*")
    assert own.stat().st_mode & 0o077 == 0
    monkeypatch.setattr("rldk_tracking.trackers.digest._user", lambda: 12345)
    own.rename(own.with_name("rldk-digest-12345"))
    with pytest.raises(ValueError, match="belongs to another user"):
        Digest.of("json://host/SECRET", 0)
