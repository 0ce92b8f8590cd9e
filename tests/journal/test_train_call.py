from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from rldk_tracking.journal.train_call import TrainCall


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
