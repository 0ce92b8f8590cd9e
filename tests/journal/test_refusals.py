"""Messages that a channel refused, which are sent once its address is mended, and each once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.journal.offset import Offset
from rldk_tracking.trackers.base import RejectedError, UnavailableError
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal import test_sender
from tests.journal.test_sender import Backend, journal_of, send

_in_no_time = test_sender._in_no_time


def alerts_of(backend: Backend) -> list[Any]:
    return [what for method, what in backend.calls if method == "alert"]


def test_the_one_of_a_step_that_was_refused_is_sent_later_alone(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    refusing = Backend(lambda method, what: RejectedError("403") if what == "a.second" else None, repeatable=False)
    sender = send(path, refusing)
    assert alerts_of(refusing) == ["a.first", "a.second", "a.second"], "once more at the end"
    ((position, part),) = Offset.load(sender.offset.path).refused_calls
    assert (json.loads(path.read_bytes()[position:].splitlines()[0])["step"], part) == (5, 2)
    after = Backend(repeatable=False)
    sender = send(path, after, repeats_rejected=True)
    assert alerts_of(after) == ["a.second"]
    assert "alert" in after.restored and after.restored.count("alert") == 1, "it knows of the other one"
    assert Offset.load(sender.offset.path).refused_calls == []
    last = Backend(repeatable=False)
    send(path, last, repeats_rejected=True)
    assert last.calls == []


def test_one_that_is_refused_again_or_finds_nobody_stays(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    send(path, Backend(lambda method, what: RejectedError("403") if method == "alert" else None, repeatable=False))
    again = Backend(lambda method, what: RejectedError("403") if what == "a.first" else None, repeatable=False)
    sender = send(path, again, repeats_rejected=True)
    assert [part for _, part in Offset.load(sender.offset.path).refused_calls] == [1]
    away = Backend(lambda method, what: UnavailableError("no route") if method == "alert" else None, repeatable=False)
    sender = send(path, away, limit_s=0.2, repeats_rejected=True)
    assert [part for _, part in Offset.load(sender.offset.path).refused_calls] == [1]


def test_one_in_which_the_process_is_killed_is_not_sent_again(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    send(path, Backend(lambda method, what: RejectedError("403") if method == "alert" else None, repeatable=False))

    def kill(method: str, what: Any) -> None:
        if what == "a.first":
            raise test_sender.Killed

    with pytest.raises(test_sender.Killed):
        send(path, Backend(kill, repeatable=False), repeats_rejected=True)
    after = Backend(repeatable=False)
    send(path, after, repeats_rejected=True)
    assert alerts_of(after) == ["a.second"]


def test_slack_after_its_webhook_was_mended(tmp_path: Path, webhook: Any) -> None:
    path = journal_of(tmp_path)
    webhook.answers = [(404, {})] * 4
    send(path, SlackNotifier(webhook.url, allow_loopback=True, retries=0))
    assert webhook.messages == []
    send(path, SlackNotifier(webhook.url, allow_loopback=True, retries=0), repeats_rejected=True)
    assert len(webhook.messages) == 2
