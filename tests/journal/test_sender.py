"""What a destination gets of a journal, call by call, with backends that fail as backends do."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal import attempts
from rldk_tracking.journal.attempts import Deadline
from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.reader import FileLines
from rldk_tracking.journal.sender import Sender
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import LostAnswerError, RejectedError, Row, Tracker, UnavailableError
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal.conftest import an_alert, eventually, row, started

Fault = Callable[[str, Any], Exception | None]


class Backend(Tracker):
    """Notes what it is asked, and fails as it is told."""

    rows_per_call = 3

    def __init__(self, fault: Fault = lambda method, what: None, repeatable: bool = True) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.restored: list[str] = []
        self.info: RunInfo | None = None
        self.fault = fault
        self.repeatable = repeatable  # type: ignore[misc]

    def open(self, run: RunInfo) -> None:
        self.info = run

    def restore(self, past: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        self.restored = [method for method, _ in past]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        raise AssertionError("rows come by `log_rows`")

    def log_rows(self, rows: Sequence[Row]) -> None:
        self._note("rows", [row.step for row in rows])

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._note("table", step)

    def alert(self, alert: Alert) -> None:
        self._note("alert", alert.rule)

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self._note("status", (status, step))

    def close(self) -> None:
        self._note("close", None)

    def _note(self, method: str, what: Any) -> None:
        self.calls.append((method, what))
        fault = self.fault(method, what)
        if fault is not None:
            raise fault


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "wait_exponential", lambda **_: lambda state: 0.001)


def journal_of(folder: Path, steps: int = 7, ended: bool = True) -> Path:
    journal = started(folder)
    for step in range(1, steps + 1):
        alerts = [an_alert(step, "a.first"), an_alert(step, "a.second")] if step == 5 else []
        journal.row(step, row(step), alerts)
    journal.call("log_table", "k", ["a"], [[1]], steps)
    if ended:
        journal.call("status", "finished", {}, steps)
        journal.end("finished", steps)
    journal.close()
    return journal.path


def send(path: Path, backend: Tracker, limit_s: float = 5.0, **changes: Any) -> Sender:
    deadline = Deadline()
    deadline.is_gone = deadline.is_end_judged = True
    deadline.limit(limit_s)
    offset = Offset.load(path.with_name("run.backend.offset.json"))
    sender = Sender("backend", lambda to: backend, FileLines(path), offset, deadline, logging.getLogger("sender"))
    vars(sender).update(changes)
    sender.run()
    return sender


EVERYTHING = [
    ("rows", [1, 2, 3]),
    ("rows", [4, 5]),
    ("alert", "a.first"),
    ("alert", "a.second"),
    ("rows", [6, 7]),
    ("table", 7),
    ("status", ("finished", 7)),
    ("close", None),
]


def test_everything_once_and_in_order(tmp_path: Path) -> None:
    path, backend = journal_of(tmp_path), Backend()
    sender = send(path, backend)
    assert backend.calls == EVERYTHING
    assert backend.info == RunInfo(name="a try", trainer="GRPOTrainer", config={"beta": 0.02})
    assert (sender.offset.position, sender.offset.closed, sender.offset.errors) == (path.stat().st_size, True, 0)
    again = Backend()
    send(path, again)
    assert again.calls == []
    assert again.restored.count("log") == 7 and again.restored.count("alert") == 2


def test_a_training_that_went_without_a_word(tmp_path: Path) -> None:
    backend = Backend()
    send(journal_of(tmp_path, ended=False), backend)
    assert backend.calls[-2:] == [("status", ("crashed", 7)), ("close", None)]
    again = Backend()
    send(tmp_path / "run.jsonl", again)
    assert again.calls == [], "it is said once"


def test_a_backend_that_is_away_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faults: list[Exception] = [UnavailableError("not now")] * 8 + [OSError("no route")] * 4
    backend = Backend(lambda method, what: faults.pop() if faults and what == [4, 5] else None)
    sender = send(journal_of(tmp_path), backend)
    assert [call for call in backend.calls if call != ("rows", [4, 5])] == [*EVERYTHING[:1], *EVERYTHING[2:]]
    assert backend.calls.count(("rows", [4, 5])) == 13
    assert (sender.offset.errors, sender.offset.down_since, sender.offset.rejected) == (12, None, [])
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2, "each kind once"


def test_time_that_is_up(tmp_path: Path) -> None:
    backend = Backend(lambda method, what: UnavailableError("never") if method == "alert" else None)
    sender = send(journal_of(tmp_path), backend, limit_s=0.3)
    offset = Offset.load(sender.offset.path)
    assert (offset.part, offset.closed, offset.fault) == (1, False, "UnavailableError: never")
    assert offset.down_since is not None
    after = Backend()
    send(tmp_path / "run.jsonl", after)
    assert after.calls == EVERYTHING[2:], "it goes on in the middle of a record"


def test_a_message_that_surely_did_not_arrive_is_sent_later(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    away = Backend(lambda method, what: UnavailableError("no route") if what == "a.first" else None, repeatable=False)
    sender = send(path, away, limit_s=0.3)
    assert not Offset.load(sender.offset.path).trying
    after = Backend(repeatable=False)
    sender = send(path, after)
    assert [what for method, what in after.calls if method == "alert"] == ["a.first", "a.second"]
    assert sender.offset.uncertain == 0


def test_a_journal_that_was_deleted_and_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = started(tmp_path / "a")
    backend, deadline = Backend(), Deadline()
    offset = Offset(tmp_path / "o.json")
    sender = Sender("x", lambda to: backend, FileLines(journal.path), offset, deadline, logging.getLogger("sender"))
    thread = threading.Thread(target=sender.run)
    deadline.is_end_judged = True
    journal.row(1, row(1))
    thread.start()
    eventually(lambda: ("rows", [1]) in backend.calls)
    journal.row(2, row(2))
    shutil.rmtree(tmp_path / "a")
    journal.row(3, row(3))
    journal.end("finished", 3)
    thread.join(10)
    assert not thread.is_alive()
    assert [step for method, what in backend.calls if method == "rows" for step in what] == [1, 2, 3]
    assert offset.position == journal.size


def test_one_row_of_several_that_is_refused(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    backend = Backend(lambda method, what: RejectedError("a bad key") if method == "rows" and 2 in what else None)
    sender = send(path, backend)
    assert backend.calls[:4] == [("rows", [1, 2, 3]), ("rows", [1]), ("rows", [2]), ("rows", [3])]
    assert backend.calls[4:] == [*EVERYTHING[1:-1], ("rows", [2]), ("close", None)], "it is tried once more at the end"
    ((start, end, why),) = sender.offset.rejected
    assert b'"step": 2,' in path.read_bytes()[start:end] and why == "RejectedError: a bad key"
    after = Backend()
    sender = send(path, after, repeats_rejected=True)
    assert after.calls == [("rows", [2])]
    assert (Offset.load(sender.offset.path).rejected, sender.delivered) == ([], 1)


def test_many_rows_that_are_refused_are_not_all_tried_again_at_the_end(tmp_path: Path) -> None:
    path = journal_of(tmp_path, steps=40)
    backend = Backend(lambda method, what: RejectedError("the run is gone") if method == "rows" else None)
    sender = send(path, backend)
    singles = [what[0] for method, what in backend.calls if method == "rows" and len(what) == 1]
    assert singles[-2:] == [1, 2] and singles[:-2] == list(range(1, 41))
    after = Backend()
    send(path, after, repeats_rejected=True)
    assert [what for method, what in after.calls if method == "rows"] == [[step] for step in range(1, 41)]
    assert Offset.load(sender.offset.path).rejected == []


def test_a_message_that_may_have_arrived_is_not_sent_later(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    backend = Backend(
        lambda method, what: LostAnswerError("no answer") if method == "alert" else None, repeatable=False
    )
    sender = send(path, backend)
    offset = sender.offset
    assert (offset.rejected, offset.refused_calls, offset.errors, offset.uncertain) == ([], [], 2, 2)
    assert offset.closed
    after = Backend(repeatable=False)
    send(path, after, repeats_rejected=True)
    assert after.calls == []


def test_the_end_of_a_run_that_is_refused_is_not_said_to_be_known(tmp_path: Path) -> None:
    path = journal_of(tmp_path, ended=False)
    backend = Backend(lambda method, what: RejectedError("deleted") if what == ("crashed", 7) else None)
    assert not send(path, backend).said_crashed
    offset = Offset.load(path.with_name("run.backend.offset.json"))
    offset.closed = False
    offset.save()
    assert send(path, Backend()).said_crashed


def test_where_a_client_finds_no_thread_it_is_tried_again(tmp_path: Path) -> None:
    faults = [RuntimeError("can't start new thread")] * (3 * attempts.UNKNOWN_ATTEMPTS)
    backend = Backend(lambda method, what: faults.pop() if faults and method == "table" else None)
    sender = send(journal_of(tmp_path), backend)
    assert not faults and sender.offset.rejected == []
    assert backend.calls[-3:] == EVERYTHING[-3:]


def test_a_call_that_fails_in_an_unknown_way(tmp_path: Path) -> None:
    backend = Backend(lambda method, what: KeyError("a bug") if method == "table" else None)
    sender = send(journal_of(tmp_path), backend)
    assert backend.calls.count(("table", 7)) == 2 * attempts.UNKNOWN_ATTEMPTS, "and once more at the end"
    assert sender.offset.rejected[0][2] == "RejectedError: KeyError: 'a bug'"
    assert backend.calls[-1] == ("close", None)


def test_where_a_repetition_is_seen_an_unknown_fault_is_not_repeated(tmp_path: Path) -> None:
    backend = Backend(lambda method, what: KeyError("a bug") if what == "a.first" else None, repeatable=False)
    send(journal_of(tmp_path), backend)
    assert backend.calls.count(("alert", "a.first")) == backend.calls.count(("alert", "a.second")) == 1


class Killed(BaseException):
    """The courier's process, in the middle of a call."""


@pytest.mark.parametrize("repeatable", [True, False])
def test_killed_in_the_middle_of_a_call(tmp_path: Path, repeatable: bool) -> None:
    """A message that may have arrived is not sent again; a row is, where a store keeps it once."""
    path = journal_of(tmp_path)

    def kill(method: str, what: Any) -> Exception | None:
        if what == "a.first":
            raise Killed
        return None

    first = Backend(kill, repeatable)
    with pytest.raises(Killed):
        send(path, first)
    second = Backend(repeatable=repeatable)
    sender = send(path, second)
    sent = [what for method, what in first.calls + second.calls if method == "alert"]
    assert sent == (["a.first"] * 2 if repeatable else ["a.first"]) + ["a.second"]
    assert sender.offset.uncertain == (0 if repeatable else 1)


def test_one_that_takes_no_rows(tmp_path: Path) -> None:
    backend = Backend()
    backend.takes_rows = False  # type: ignore[misc]
    send(journal_of(tmp_path), backend)
    assert [method for method, _ in backend.calls] == ["alert", "alert", "table", "status", "close"]


def test_lines_that_are_passed_over_are_noted(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b'{"type": "metrics", "step"\n', *lines[3:]]))
    sender = send(path, Backend())
    assert sender.offset.skipped == [(sum(map(len, lines[:3])), "it is not JSON, or torn")]


def test_a_file_that_lost_its_end(tmp_path: Path) -> None:
    """After a power cut the journal may be shorter than what was delivered of it; what comes then is new."""
    path = journal_of(tmp_path, ended=False)
    send(path, Backend())
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:3]))
    journal = started(tmp_path, resumed_at=2)
    for step in (3, 4):
        journal.row(step, row(step))
    journal.end("finished", 4)
    journal.close()
    # As long as the old one or shorter: the position lies within it, or behind.
    backend = Backend()
    sender = send(path, backend)
    assert sender.offset.position == path.stat().st_size


def test_a_training_that_goes_on_is_none_that_crashed(tmp_path: Path) -> None:
    """The courier of the killed one is at work still, and sees that another has begun."""
    path = journal_of(tmp_path, ended=False)
    backend, deadline = Backend(), Deadline((1, 2.0))
    deadline.is_gone = True
    deadline.limit(0.5)
    offset = Offset(tmp_path / "o.json")
    Sender("x", lambda to: backend, FileLines(path), offset, deadline, logging.getLogger("sender")).run()
    assert not [call for call in backend.calls if call[0] in ("status", "close")]
    assert not offset.closed


def test_what_comes_while_it_works(tmp_path: Path) -> None:
    journal = started(tmp_path)
    backend, deadline = Backend(), Deadline()
    offset = Offset(tmp_path / "o.json")
    sender = Sender("x", lambda to: backend, FileLines(journal.path), offset, deadline, logging.getLogger("sender"))
    thread = threading.Thread(target=sender.run)
    thread.start()
    deadline.is_end_judged = True
    for step in range(1, 30):
        journal.row(step, row(step))
    journal.end("finished", 29)
    thread.join(10)
    assert not thread.is_alive()
    assert [step for method, what in backend.calls if method == "rows" for step in what] == list(range(1, 30))


def test_no_such_tracker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(to: Mapping[str, str]) -> Tracker:
        raise ValueError("there is nothing to send to a tracker named 'telegraph'")

    deadline = Deadline()
    offset = Offset(tmp_path / "o.json")
    path = journal_of(tmp_path)
    Sender("x", refuse, FileLines(path), offset, deadline, logging.getLogger("sender")).run()
    assert "telegraph" in caplog.text
    assert offset.down_since is not None and not offset.closed


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


def test_a_row_that_was_refused_waits_for_the_next_try_where_time_is_up(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    sender = send(path, Backend(lambda method, what: RejectedError("a bad key") if method == "rows" else None))
    refused = Offset.load(sender.offset.path).rejected
    away = Backend(lambda method, what: UnavailableError("no route") if method == "rows" else None)
    sender = send(path, away, limit_s=0.2, repeats_rejected=True)
    assert Offset.load(sender.offset.path).rejected == refused and refused
    after = Backend()
    sender = send(path, after, repeats_rejected=True)
    assert Offset.load(sender.offset.path).rejected == []
    assert [step for method, what in after.calls if method == "rows" for step in what] == list(range(1, 8))


def test_one_in_which_the_process_is_killed_is_not_sent_again(tmp_path: Path) -> None:
    path = journal_of(tmp_path)
    send(path, Backend(lambda method, what: RejectedError("403") if method == "alert" else None, repeatable=False))

    def kill(method: str, what: Any) -> None:
        if what == "a.first":
            raise Killed

    with pytest.raises(Killed):
        send(path, Backend(kill, repeatable=False), repeats_rejected=True)
    after = Backend(repeatable=False)
    send(path, after, repeats_rejected=True)
    assert alerts_of(after) == ["a.second"]


def test_slack_after_its_webhook_was_mended(tmp_path: Path, webhook: Any) -> None:
    path = journal_of(tmp_path)
    webhook.answers = [(404, {})] * 5
    send(path, SlackNotifier(webhook.url, allow_loopback=True, retries=0))
    assert webhook.messages == []
    send(path, SlackNotifier(webhook.url, allow_loopback=True, retries=0), repeats_rejected=True)
    assert len(webhook.messages) == 2
