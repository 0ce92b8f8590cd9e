"""One real training under one fault, and the count of what became of its rows."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.loss_pass import LossWatch
from rldk_tracking.sources.optimizer import OptimizerSource
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.records import parsed
from tests.clock import own_time


@dataclass
class Outcome:
    """What a training under a fault did.

    Attributes:
        steps: optimiser steps that it finished.
        waits: seconds that it waited for our events and hooks, for each step.
        own_waits: the same, less the time in which the machine had no core for it.
        end: seconds that it waited for us at train end; None where it did not come to that.
        produced: (key, step) of every number that was produced.
        callback: the callback, where the training was in this process.
    """

    steps: int = 0
    waits: dict[int, float] = field(default_factory=dict)
    own_waits: dict[int, float] = field(default_factory=dict)
    end: float | None = None
    produced: set[tuple[str, int]] = field(default_factory=set)
    callback: Any = None

    @property
    def rows(self) -> set[int]:
        """Steps with a row."""
        return {step for _, step in self.produced}

    def wait_ms(self) -> tuple[float, float] | None:
        """Median and longest wait of a step. The first step, which sets things up, is left out."""
        waits = [1000 * seconds for step, seconds in self.waits.items() if step > 1]
        return (statistics.median(waits), max(waits)) if waits else None


ON_THE_TRAINING_THREAD = {
    RLDKCallback: ("on_step_begin", "on_step_end", "on_log", "on_save"),
    GroupSource: ("_keep_generation",),
    LossWatch: ("_keep_logprobs",),
    OptimizerSource: ("_before_clipping", "_before_step", "_after_step"),
}
"""Everything of ours that a step goes through."""


@contextlib.contextmanager
def clock(outcome: Outcome, step: Callable[[], int]) -> Iterator[None]:
    """Time all that a step goes through, and the training's end."""

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            number, own_before, before = step(), own_time(), time.perf_counter()
            result = original(*args, **kwargs)
            outcome.waits[number] = outcome.waits.get(number, 0.0) + time.perf_counter() - before
            outcome.own_waits[number] = outcome.own_waits.get(number, 0.0) + own_time() - own_before
            return result

        return call

    original_end = RLDKCallback.on_train_end

    def timed_end(self: RLDKCallback, *args: Any, **kwargs: Any) -> None:
        before = time.perf_counter()
        original_end(self, *args, **kwargs)
        outcome.end = time.perf_counter() - before

    with contextlib.ExitStack() as stack:
        for owner, names in ON_THE_TRAINING_THREAD.items():
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        stack.enter_context(mock.patch.object(RLDKCallback, "on_train_end", timed_end))
        yield


class At(TrainerCallback):
    """Does something at the beginning of a step."""

    def __init__(self, doings: dict[int, Callable[[], Any]]) -> None:
        self.doings = doings

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        doing = self.doings.get(state.global_step + 1)
        if doing is not None:
            doing()


def train(
    folder: Path, trackers: list[Tracker], doings: dict[int, Callable[[], Any]], steps: int, **options: Any
) -> Outcome:
    """A GRPO training of the tiny model that reports to these trackers, with something done at some steps."""
    memory = InMemoryTracker()
    callback = RLDKCallback(trackers=[memory, *trackers], **options)
    outcome = Outcome(callback=callback)
    trainer = grpo_trainer(folder, max_steps=steps, callbacks=[callback, At(doings)])
    with clock(outcome, lambda: int(trainer.state.global_step)):
        trainer.train()
    outcome.steps = trainer.state.global_step
    outcome.produced = {(key, step) for key, points in memory.series.items() for step, _ in points}
    return outcome


def stored_in_mlflow(uri: str, run_id: str) -> Counter[tuple[str, int]]:
    """How often each (key, step) of ours is in the store."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith("rldk/")]
    return Counter((key, point.step) for key in keys for point in client.get_metric_history(run_id, key))


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a journal; lines that are none are left out."""
    return list(parsed(path.read_bytes().splitlines()))


@dataclass(frozen=True)
class Count:
    """Rows, as steps. A row counts as stored when every number of it is.

    Attributes:
        produced: steps with a row.
        stored: of these, those that are in the store.
        lost: finished steps that are not, or not whole.
        doubled: steps of which the store has a number twice.
    """

    produced: int
    stored: int
    lost: int
    doubled: int


def count(outcome: Outcome, stored: Counter[tuple[str, int]], first: int = 1) -> Count:
    """What became of the steps from `first` on."""
    missing = {step for _, step in outcome.produced - set(stored)}
    finished = set(range(first, outcome.steps + 1)) | outcome.rows
    doubled = {step for (_, step), times in stored.items() if times > 1}
    return Count(len(outcome.rows), len(outcome.rows - missing), len(finished - outcome.rows | missing), len(doubled))
