from __future__ import annotations

import logging
import threading
import time

import pytest

from rldk_tracking.background import BEHIND, HOLD, Background
from rldk_tracking.isolation import Shield


def test_work_runs_in_order_on_another_thread() -> None:
    background, seen = Background(Shield()), []
    for number in range(50):
        background.submit(lambda number=number: seen.append((number, threading.current_thread().name)))  # type: ignore[misc]
    background.settle()
    assert [number for number, _ in seen] == list(range(50))
    assert {name for _, name in seen} == {"rldk-judge"}
    background.close()


def test_it_may_not_fall_behind_without_bound() -> None:
    background, gate = Background(Shield()), threading.Event()
    background.submit(lambda: gate.wait(5) and None)
    time.sleep(0.05)
    for _ in range(BEHIND):
        background.submit(lambda: None)
    waited = threading.Thread(target=lambda: background.submit(lambda: None))
    waited.start()
    waited.join(0.2)
    assert waited.is_alive(), "one more must wait"
    gate.set()
    waited.join(5)
    assert not waited.is_alive()
    background.close()


def test_a_fault_is_logged_and_the_next_step_is_judged(caplog: pytest.LogCaptureFixture) -> None:
    background, seen = Background(Shield()), []

    def fail() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        background.submit(fail)
        background.submit(lambda: seen.append(1))
        background.settle()
    assert seen == [1]
    assert "judging a step" in caplog.text
    background.close()


def test_nothing_is_left_after_close_and_it_can_begin_again() -> None:
    before = set(threading.enumerate())
    background, seen = Background(Shield()), []
    for round_ in range(2):
        background.submit(lambda round_=round_: seen.append(round_))  # type: ignore[misc]
        background.close()
    assert seen == [0, 1]
    assert [thread for thread in set(threading.enumerate()) - before if thread.name == "rldk-judge"] == []


def test_settling_from_within_the_work_does_not_wait_for_itself() -> None:
    background = Background(Shield())
    background.submit(background.settle)
    begin = time.monotonic()
    background.settle()
    assert time.monotonic() - begin < 5
    background.close()


def test_work_waits_for_the_training_to_be_through_with_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or for a while: not every trainer says that a step begins."""
    background = Background(Shield())
    began: list[float] = []
    submitted = time.monotonic()
    background.submit(lambda: began.append(time.monotonic()))
    while not began:
        time.sleep(0.001)
    assert began[0] - submitted >= HOLD
    monkeypatch.setattr("rldk_tracking.background.HOLD", 60.0)
    background.submit(lambda: began.append(time.monotonic()))
    time.sleep(5 * HOLD)
    assert len(began) == 1
    released = time.monotonic()
    background.release()
    while len(began) == 1:
        time.sleep(0.001)
    assert began[1] >= released
    background.close()


def test_nobody_who_waits_for_the_work_waits_for_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.background.HOLD", 60.0)
    background, done = Background(Shield()), []
    begin = time.monotonic()
    for number in range(20):
        background.submit(lambda number=number: done.append(number))  # type: ignore[misc]
        background.settle()
        assert len(done) == number + 1
    background.submit(lambda: done.append(20))
    background.close()
    assert len(done) == 21
    assert time.monotonic() - begin < 30


def test_what_is_offered_begins_at_once_unless_other_work_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.background.HOLD", 60.0)
    background, seen, gate = Background(Shield()), [], threading.Event()
    assert background.offer(lambda: gate.wait(5) and seen.append(1))
    while background._work:
        time.sleep(0.001)
    assert background.offer(lambda: seen.append(2)), "one is under way, none waits"
    assert not background.offer(lambda: seen.append(3)), "one waits"
    gate.set()
    background.settle()
    background.submit(lambda: seen.append(4))
    assert not background.offer(lambda: seen.append(5)), "that one waits for the release"
    background.close()
    assert seen == [1, 2, 4]


def test_it_is_idle_when_nothing_waits_and_nothing_is_done() -> None:
    background, gate = Background(Shield()), threading.Event()
    assert background.is_idle
    background.submit(lambda: gate.wait(5) and None)
    assert not background.is_idle
    background.release()
    assert not background.is_idle
    gate.set()
    background.settle()
    assert background.is_idle
    background.close()
