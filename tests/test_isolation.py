from __future__ import annotations

import logging
import sys
import time

import pytest

from rldk_tracking.isolation import Shield, TrainingStopped


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


def test_time_of_a_fault_counts_too_and_time_outside_does_not() -> None:
    shield = Shield()
    with shield.at("on_log"):
        time.sleep(0.02)
        raise KeyError("rewards")
    inside = shield.seconds
    time.sleep(0.02)
    assert inside >= 0.02 and shield.seconds == inside
    with pytest.raises(KeyboardInterrupt), shield.at("on_log"):
        raise KeyboardInterrupt
    with shield.at("on_log"):
        pass
    assert inside < shield.seconds < inside + 0.02


def test_a_fault_is_kept_by_the_innermost_place_and_named_by_it(caplog: pytest.LogCaptureFixture) -> None:
    shield, reached = Shield(), []
    with caplog.at_level(logging.ERROR), shield.at("on_log"):
        with shield.at("a probe"):
            raise KeyError("rewards")
        reached.append("the next probe")
    assert reached == ["the next probe"] and shield.faults == 1
    (record,) = caplog.records
    assert "a probe" in record.getMessage() and "on_log" not in record.getMessage()


def test_what_passes_is_no_fault() -> None:
    shield = Shield()
    with pytest.raises(TrainingStopped), shield.at("on_step_end"), shield.at("within"):
        raise TrainingStopped("nan.weights", 7, "3 tensors are not finite")
    assert shield.faults == 0
    with shield.at("on_log"):
        raise ValueError("the places before are left")


def test_nothing_of_the_interpreter_is_changed() -> None:
    before = sys.getswitchinterval()
    with Shield().at("on_log"):
        assert sys.getswitchinterval() == before
