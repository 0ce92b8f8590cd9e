from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

import pytest

from rldk_tracking.isolation import Shield, TrainingStopped, give_way


def test_a_fault_is_logged_once_for_each_place_and_kind(caplog: pytest.LogCaptureFixture) -> None:
    shield = Shield()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with shield.at("on_log"):
                raise KeyError("rewards")
        with shield.at("on_log"):
            raise ValueError("other kind")
        with shield.at("on_save"):
            raise KeyError("rewards")
    assert shield.faults == 5
    assert len(caplog.records) == 3
    assert all(record.exc_info is not None for record in caplog.records), "the cause belongs to the message"
    assert "on_log" in caplog.records[0].getMessage()


def test_strict_lets_faults_out() -> None:
    with pytest.raises(KeyError), Shield(strict=True).at("on_log"):
        raise KeyError("rewards")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_never_kept(kind: type[BaseException]) -> None:
    with pytest.raises(kind), Shield().at("on_log"):
        raise kind


def test_a_wanted_stop_passes() -> None:
    with pytest.raises(TrainingStopped, match="step 7 by nan.weights"), Shield().at("on_save"):
        raise TrainingStopped("nan.weights", 7, "3 tensors are not finite")


def test_time_inside_is_counted_once() -> None:
    shield = Shield()
    begin = time.perf_counter()
    with shield.at("outer"), shield.at("inner"):
        time.sleep(0.02)
    assert 0.02 <= shield.seconds <= time.perf_counter() - begin


def test_while_the_training_waits_its_thread_gets_the_interpreter_back_at_once() -> None:
    usual = sys.getswitchinterval()
    shield, other = Shield(training=True), Shield(training=True)
    with shield.at("on_log"):
        assert sys.getswitchinterval() < usual / 10
        with shield.at("within"), other.at("another trainer"):
            raise KeyError("a fault of ours")
        assert sys.getswitchinterval() < usual / 10, "still inside"
    assert sys.getswitchinterval() == usual
    with pytest.raises(KeyboardInterrupt), shield.at("on_log"):
        raise KeyboardInterrupt
    assert sys.getswitchinterval() == usual
    with Shield().at("judging a step"):
        assert sys.getswitchinterval() == usual, "what is done beside the training does not go first"


def test_a_busy_thread_beside_it_does_not_hold_the_training_up() -> None:
    """Each tensor operation gives the interpreter away; a thread that computes keeps it for 5 ms each time."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(1000))

    def seconds(shield: Shield) -> float:
        begin = time.perf_counter()
        with shield.at("on_log"):
            for _ in range(40):
                time.sleep(0)  # gives the interpreter away, as a tensor operation does
        return time.perf_counter() - begin

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        plain, prompt = (min(seconds(Shield(training=training)) for _ in range(5)) for training in (False, True))
    finally:
        ended.set()
        thread.join()
    assert prompt < plain / 3


def test_who_gives_way_waits_while_the_training_waits_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.isolation.COURTESY", 60.0)
    passed = threading.Event()

    def beside() -> None:
        give_way()
        passed.set()

    give_way()
    one, two = Shield(training=True), Shield(training=True)
    thread = threading.Thread(target=beside)
    with one.at("one"), two.at("two"):
        with one.at("within"):
            thread.start()
        assert not passed.wait(0.1)
    assert passed.wait(5)
    thread.join()


def test_nobody_gives_way_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.isolation.COURTESY", 0.4)

    def seconds(*is_awaited: Callable[[], bool]) -> float:
        begin = time.monotonic()
        give_way(*is_awaited)
        return time.monotonic() - begin

    with Shield(training=True).at("an event that takes its time"):
        assert 0.4 <= seconds() < 5
        assert seconds(lambda: True) < 0.2
    with Shield().at("what is done beside the training"):
        assert seconds() < 0.2


def test_elapsed_counts_the_present_stay_too() -> None:
    shield = Shield()
    assert shield.elapsed == 0.0
    with shield.at("outside"), shield.at("inside"):
        time.sleep(0.02)
        assert shield.elapsed >= 0.02 > shield.seconds
    assert shield.elapsed == shield.seconds
