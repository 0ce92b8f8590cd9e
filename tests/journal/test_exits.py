"""Runs that nobody closed, when the process ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest

from rldk_tracking.journal.exits import TrainCall, last_exception

LEFT_OPEN = """
import os, sys
from rldk_tracking.journal.publisher import Publisher
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.memory import InMemoryTracker


class Saying(InMemoryTracker):
    def status(self, status, metrics, step):
        sys.stdout.write(f"{status} {step} {os.getpid() == parent}\\n")
        sys.stdout.flush()


parent = os.getpid()
publisher = Publisher()
publisher.open([], RunInfo(), [Saying()], None)
publisher.row(5, {"a": 1.0}, [])
if hasattr(os, "fork") and os.fork() == 0:
    sys.exit()
if hasattr(os, "fork"):
    os.wait()
"""


def said_at_exit(end: str) -> list[str]:
    command = [sys.executable, "-c", LEFT_OPEN + end]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ).stdout.splitlines()


def test_what_nobody_closed_is_said_at_exit_to_have_crashed_and_not_by_a_forked_child() -> None:
    assert said_at_exit("del publisher") == ["running 0 True", "crashed 5 True"]
    assert said_at_exit("raise RuntimeError('out of memory')") == ["running 0 True", "crashed 5 True"]
    assert said_at_exit("publisher.close('finished')") == ["running 0 True", "finished 5 True"]


def test_the_exception_that_ends_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "last_value", raising=False)
    assert last_exception() is None
    try:
        raise ValueError("the reward is no number")
    except ValueError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    lines: Any = last_exception()
    assert lines.splitlines()[-1] == "ValueError: the reward is no number" and len(lines.splitlines()) <= 5


class Trainer:
    """Makes a `TrainCall` within `train`, does something, and may fail."""

    def train(self, doing: Any = lambda: None, fails: bool = False) -> None:
        self.call = TrainCall()
        doing()
        if fails:
            raise KeyboardInterrupt


def test_it_is_over_when_train_has_returned_or_raised() -> None:
    for fails in (False, True):
        trainer, seen = Trainer(), []
        try:
            trainer.train(lambda: seen.append(trainer.call.is_over()), fails)  # noqa: B023
        except KeyboardInterrupt:
            assert fails
        assert seen == [False] and trainer.call.is_over()


def test_its_exception_is_one_that_was_kept_since_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "last_value", ValueError("of an earlier cell"), raising=False)
    call = TrainCall()
    assert call.exception() is None
    monkeypatch.setattr(sys, "last_value", ValueError("of this training"))
    assert call.exception() == "ValueError: of this training"


def test_outside_of_train_nothing_is_known() -> None:
    call = TrainCall()
    assert not call.is_over()


def test_a_function_of_the_users_own_that_is_called_train_too() -> None:
    """It goes on after the trainer's has failed."""
    trainer = Trainer()

    def train() -> bool:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(fails=True)
        return trainer.call.is_over()

    assert train()


def test_seen_from_another_thread_and_after_the_end_of_its_own() -> None:
    trainer, until, begun = Trainer(), threading.Event(), threading.Event()
    thread = threading.Thread(target=trainer.train, args=(lambda: (begun.set(), until.wait(10)),))
    thread.start()
    assert begun.wait(10)
    assert not trainer.call.is_over()
    until.set()
    thread.join(10)
    assert trainer.call.is_over()


def test_the_next_training_of_the_thread_is_not_taken_for_it() -> None:
    first, second, seen = Trainer(), Trainer(), []
    with pytest.raises(KeyboardInterrupt):
        first.train(fails=True)

    def look() -> None:
        seen.extend([first.call.is_over(), first.call.is_over(second.call), second.call.is_over(TrainCall())])

    second.train(look)
    # Without a word of the later one the two cannot be told apart, and nothing is said to be over.
    assert seen == [False, True, True]


def test_a_training_within_another_ends_neither() -> None:
    outer, inner, seen = Trainer(), Trainer(), []
    outer.train(lambda: inner.train(lambda: seen.append(outer.call.is_over(inner.call))))
    assert seen == [False]


def test_it_keeps_no_model() -> None:
    class Model: ...

    def train() -> tuple[TrainCall, weakref.ref[Model]]:
        model = Model()
        return TrainCall(), weakref.ref(model)

    call, model = train()
    gc.collect()
    assert call.is_over() and model() is None
