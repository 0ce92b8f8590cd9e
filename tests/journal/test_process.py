"""The trainer's side: what it starts, what a step costs, and what it does where the courier can do nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.journal import delivery as module
from rldk_tracking.journal.offset import Offset, offset_path
from rldk_tracking.journal.process import CourierProcess, Destination, courier
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers import registry
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import RefusedError, Tracker
from rldk_tracking.trackers.lines import LineFile
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal.conftest import an_alert, eventually, row, started, steps_in

pytestmark = pytest.mark.slow

TAKEN: list[tuple[str, int]] = []


class Distant(Tracker):
    """A backend that only the process of the tests can reach."""

    name = "distant"
    in_process = False

    def __init__(self, place: str = "there") -> None:
        self.place = place
        self.learnt: dict[str, str] = {}

    def address(self) -> dict[str, str]:
        return {"place": self.place}

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> Distant:
        return cls(to["place"])

    def adopt(self, to: Mapping[str, str]) -> None:
        self.learnt = dict(to)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        TAKEN.append((self.place, step))


class DistantBackend(Backend):
    kind = Distant


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[CourierProcess]:
    TAKEN.clear()
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, DistantBackend()))
    found = CourierProcess()
    yield found
    # No courier of a test follows its journal while another test runs.
    for follower in {thread for delivery in found._deliveries.values() for thread in delivery.threads.values()}:
        if follower.ident is None:  # a test kept it from starting
            continue
        follower.leave()
        follower.join(10)
        assert not follower.is_alive()
    if found._process is not None:
        found._process.kill()
        found._process.wait()
        if found._process.stdin is not None:
            found._process.stdin.close()


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError("a limit of processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_where_no_process_can_be_had_a_thread_does_it(
    service: CourierProcess, no_process: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    for step in (1, 2, 3):
        journal.row(step, row(step))
        service.check()
    journal.end("finished", 3)
    start = time.monotonic()
    assert service.wait(journal, 10)
    assert time.monotonic() - start < 3
    assert TAKEN == [("there", 1), ("there", 2), ("there", 3)]
    assert tracker.learnt == {"place": "there"}
    assert caplog.text.count("in a thread of the training instead") == 1
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("rldk")], 5)


def test_where_there_is_no_file_the_last_records_are_delivered(service: CourierProcess, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    tracker = Distant()
    journal = started(tmp_path / "a", tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    for step in (1, 2):
        journal.row(step, row(step))
    journal.end("finished", 2)
    assert service.wait(journal, 10)
    assert TAKEN == [("there", 1), ("there", 2)]
    assert service._process is None
    assert service.health(journal) == {}, "it is over"


def test_what_was_found_out_is_told_once_and_to_who_comes_in_its_place(
    service: CourierProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_start", lambda: None)
    first, second = Distant(), Distant()
    journal = started(tmp_path, first)
    offset = Offset(offset_path(journal.path, "distant"), to={"run": "7"})
    offset.save()
    service.follow(journal, [Destination("distant", first)], {})
    service.check()
    assert first.learnt == {"run": "7"}
    first.learnt, service._look_at = {}, 0.0
    service.check()
    assert first.learnt == {}, "it knows"
    service.follow(journal, [Destination("distant", second)], {})
    service._look_at = 0.0
    service.check()
    assert second.learnt == {"run": "7"}
    journal.close()


def test_no_thread_either(
    service: CourierProcess,
    no_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    for step in range(100):
        journal.row(step, row(step))
        service.check()
    journal.end("finished", 99)
    start = time.monotonic()
    assert not service.wait(journal, 1.0)
    assert time.monotonic() - start < 2
    assert caplog.text.count("No thread can be started") == 1


def test_three_deaths_within_a_minute(
    service: CourierProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, started_so = subprocess.Popen, []

    def short_lived(command: list[str], **options: Any) -> Any:
        started_so.append(command)
        return real(["true"], **options)

    monkeypatch.setattr(subprocess, "Popen", short_lived)
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    journal.row(1, row(1))

    def taken() -> bool:
        service.check()
        return bool(TAKEN)

    eventually(taken)
    assert len(started_so) == 3
    assert "died three times within a minute" in caplog.text


def test_a_courier_whose_credentials_are_refused(
    service: CourierProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a notebook that is logged in by itself: the training's process is let in, another is not."""
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service._process = _Idle()  # type: ignore[assignment]
    service.follow(journal, [Destination("distant", tracker)], {})
    journal.row(1, row(1))
    service.check()
    assert TAKEN == []
    refused = Offset(offset_path(journal.path, "distant"), refused=True)
    refused.save()
    service._look_at = 0.0
    service.check()
    eventually(lambda: TAKEN == [("there", 1)], 10)
    journal.end("finished", 1)
    assert service.wait(journal, 10)
    service._process = None
    assert caplog.text.count("takes no credentials of the courier's") == 1


def test_a_courier_hands_back_what_refuses_it(tmp_path: Path) -> None:
    import logging

    from rldk_tracking.journal.attempts import Deadline
    from rldk_tracking.journal.reader import FileLines
    from rldk_tracking.journal.sender import Sender

    class Refusing(Distant):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            raise RefusedError("401")

    journal = started(tmp_path)
    journal.row(1, row(1))
    offset = Offset(tmp_path / "o.json")
    deadline = Deadline()
    sender = Sender("x", lambda to: Refusing(), FileLines(journal.path), offset, deadline, logging.getLogger("x"), True)
    sender.run()
    assert Offset.load(offset.path).refused
    assert offset.position < journal.size


def test_a_step_is_not_held_up(service: CourierProcess, tmp_path: Path) -> None:
    """With a courier that does not even read what it is told."""
    service._process = _Idle()  # type: ignore[assignment]
    tracker = Distant()
    journal = started(tmp_path, tracker)
    for number in range(400):
        service.follow(journal, [Destination(f"distant-{number}", tracker)], {"run.hung": {"x": 1.0}})
    took = []
    for _ in range(200):
        start = time.perf_counter()
        service.check()
        took.append(time.perf_counter() - start)
    assert sorted(took)[100] < 0.0002
    service._process = None


def test_health(service: CourierProcess, no_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.2)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    assert service.health(journal)["rldk/system/trackers_down"] == 0.0
    time.sleep(0.3)
    service.check()
    assert service.health(journal)["rldk/system/trackers_down"] == 1.0, "nothing was ever heard of it"
    Offset(offset_path(journal.path, "distant"), errors=3, down_since=12.0).save()
    service._deliveries[journal.path].threads.clear()
    service._look_at = 0.0
    service.check()
    assert service.health(journal) == {"rldk/system/tracker_errors": 3.0, "rldk/system/trackers_down": 1.0}
    Offset(offset_path(journal.path, "distant"), errors=3).save()
    service._look_at = 0.0
    service.check()
    assert service.health(journal) == {"rldk/system/tracker_errors": 3.0, "rldk/system/trackers_down": 0.0}


def test_announcements_are_printed_once(
    service: CourierProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Distant()
    journal = started(tmp_path, tracker)
    offset = Offset(offset_path(journal.path, "distant"))
    offset.say("of an earlier training")
    service._process = _Idle()  # type: ignore[assignment]
    service.follow(journal, [Destination("distant", tracker)], {})
    offset.say("here are the charts")
    for _ in range(3):
        service._look_at = 0.0
        service.check()
    offset.say("and the report")
    service._look_at = 0.0
    service.check()
    assert capsys.readouterr().err == "rldk: here are the charts\nrldk: and the report\n"
    service._process = None


def test_a_forked_child_has_a_courier_of_its_own() -> None:
    mine = courier()
    assert courier() is mine
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        mine.check()
        os.write(writer, b"1" if courier() is not mine and not courier()._deliveries else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.close(reader)


def test_a_forked_child_starts_nothing(
    service: CourierProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Distant()
    journal = started(tmp_path, tracker)
    idle = _Idle()
    service._process = idle  # type: ignore[assignment]
    service.follow(journal, [Destination("distant", tracker)], {})
    os.set_blocking(idle.reader, False)
    os.read(idle.reader, 1 << 16)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        idle.poll = lambda: 1  # type: ignore[method-assign, assignment, return-value]
        monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: os.write(writer, b"started"))
        service.check()
        service.wait(journal, 0.1)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 10) == b""
    with pytest.raises(BlockingIOError):
        os.read(idle.reader, 10)
    service._process = None
    os.close(reader)


def test_a_fork_in_a_reward_function_changes_nothing(service: CourierProcess, store: Any, tmp_path: Path) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    tracker = MLflowTracker(run_id, store.uri)
    tracker.open(RunInfo())
    journal = started(tmp_path / "j", tracker)
    service.follow(journal, [Destination("mlflow", tracker)], {})
    for step in range(1, 6):
        journal.row(step, row(step), [an_alert(step)] if step == 3 else [])
        child = os.fork()
        if child == 0:
            journal.row(99, row(99))
            service.check()
            service.wait(journal, 5)
            os._exit(1)
        os.waitpid(child, 0)
        service.check()
    journal.end("finished", 5)
    assert service.wait(journal, 40)
    assert steps_in(store, run_id) == [1, 2, 3, 4, 5]


def test_a_disk_that_is_full_in_the_middle(
    service: CourierProcess, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webhook: Any
) -> None:
    """The courier has the first rows from the file, a thread the others; nobody says that it crashed."""
    run_id = store.client.create_run(store.experiment_id).info.run_id
    tracker, slack = MLflowTracker(run_id, store.uri), SlackNotifier(webhook.url, allow_loopback=True)
    tracker.open(RunInfo())
    journal = started(tmp_path / "j", tracker, slack)
    service.follow(journal, [Destination("mlflow", tracker), Destination("slack", slack)], {})
    for step in range(1, 6):
        journal.row(step, row(step), [an_alert(step)] if step == 3 else [])
    eventually(lambda: webhook.messages and Offset.load(offset_path(journal.path, "mlflow")).position, 40)
    monkeypatch.setattr(LineFile, "append", full)
    for step in range(6, 11):
        journal.row(step, row(step), [an_alert(step, rule="kl.spike")] if step == 8 else [])
    service.check()
    assert service._process is not None
    eventually(lambda: (service.check(), len(webhook.messages) == 2)[1], 90)
    journal.end("finished", 10)
    assert service.wait(journal, 40)
    assert steps_in(store, run_id) == list(range(1, 11))
    assert store.client.get_run(run_id).data.tags["rldk.status"] == "finished"
    assert len(webhook.messages) == 2
    journal.close()
    assert journal.lost == 6


def test_a_disk_that_fills_up_where_no_process_can_be_had(
    service: CourierProcess, no_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads the file goes on with what is in memory alone."""
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    for step in (1, 2):
        journal.row(step, row(step))
    eventually(lambda: TAKEN == [("there", 1), ("there", 2)], 10)
    monkeypatch.setattr(LineFile, "append", full)
    for step in (3, 4):
        journal.row(step, row(step))
        service.check()
    journal.end("finished", 4)
    assert service.wait(journal, 10)
    assert [("there", step) for step in (1, 2, 3, 4)] == TAKEN
    journal.close()


def test_a_disk_that_fills_up_where_the_courier_is_refused(
    service: CourierProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, idle = Distant(), _Idle()
    journal = started(tmp_path, tracker)
    service._process = idle  # type: ignore[assignment]
    service.follow(journal, [Destination("distant", tracker)], {})
    Offset(offset_path(journal.path, "distant"), refused=True).save()
    journal.row(1, row(1))
    service._look_at = 0.0
    service.check()
    eventually(lambda: TAKEN == [("there", 1)], 10)
    monkeypatch.setattr(LineFile, "append", full)
    journal.row(2, row(2))
    journal.end("finished", 2)
    assert service.wait(journal, 10)
    assert TAKEN == [("there", 1), ("there", 2)]
    assert b'"leave": true' in os.read(idle.reader, 1 << 16), "what the file does not say the courier cannot know"
    service._process = None
    journal.close()


def test_a_thread_that_can_be_had_later(
    service: CourierProcess, no_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, start = Distant(), threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    journal.row(1, row(1))
    service._look_at = 0.0
    service.check()
    monkeypatch.setattr(threading.Thread, "start", start)
    journal.end("finished", 1)
    assert service.wait(journal, 10)
    assert TAKEN == [("there", 1)]


def test_the_rest_is_counted(
    service: CourierProcess,
    no_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Disk full and no thread: what is in memory goes with the process."""
    monkeypatch.setattr(threading.Thread, "start", lambda self: (_ for _ in ()).throw(RuntimeError("no thread")))
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    journal.row(1, row(1))
    monkeypatch.setattr(LineFile, "append", full)
    for step in (2, 3):
        journal.row(step, row(step))
    journal.end("finished", 3)
    start = time.monotonic()
    assert not service.wait(journal, 15)
    assert time.monotonic() - start < 5, "nobody works on it"
    said = capsys.readouterr().err
    assert "has reached distant; the rest lies in" in said and "but 3 records" in said and "are lost" in said
    journal.close()


def test_all_that_is_handed_over_is_waited_for_at_once(service: CourierProcess, tmp_path: Path) -> None:
    """Eight trainings that were broken off, and a server that does not answer."""
    service._process = _Idle()  # type: ignore[assignment]
    for number in range(8):
        tracker = Distant()
        journal = started(tmp_path / str(number), tracker)
        service.follow(journal, [Destination("distant", tracker)], {})
        Offset(offset_path(journal.path, "distant"), down_since=1.0).save()
        journal.end("crashed", 1)
        service.release(journal)
        journal.close()
    start = time.monotonic()
    assert not service.wait_for_all(15)
    assert 2.5 < time.monotonic() - start < 5
    assert service._deliveries == {}
    service._process = None


def test_what_is_delivered_after_its_end_is_forgotten(service: CourierProcess, tmp_path: Path) -> None:
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service._process = _Idle()  # type: ignore[assignment]
    service.follow(journal, [Destination("distant", tracker)], {})
    journal.end("crashed", 1)
    service.release(journal)
    for closed in (False, True):
        Offset(offset_path(journal.path, "distant"), position=journal.size, closed=closed).save()
        service._look_at = 0.0
        service.check()
        assert bool(service._deliveries) is not closed
    service._process = None


def test_a_courier_that_had_nothing_to_do_is_started_again(
    service: CourierProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bytes] = []
    monkeypatch.setattr(service, "_start", lambda: begun.append(b"1"))
    idle = _Idle()
    idle.poll = lambda: 0  # type: ignore[method-assign, assignment, return-value]
    service._process = idle  # type: ignore[assignment]
    tracker = Distant()
    journal = started(tmp_path, tracker)
    service.follow(journal, [Destination("distant", tracker)], {})
    assert len(begun) == 1 and len(service._deaths) == 0
    service._process = None


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class _Idle:
    """A process that lives and does nothing with what it is told: its pipe is full after a while."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self.stdin = os.fdopen(writer, "wb", buffering=0)

    def poll(self) -> None:
        return None
