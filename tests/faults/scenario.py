"""One real training under one fault, and the count of what became of its rows."""

from __future__ import annotations

import contextlib
import functools
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
from rldk_tracking.sources.optimizer import OptimizerSource
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.memory import InMemoryTracker


@dataclass
class Outcome:
    """What a training under a fault did.

    Attributes:
        steps: optimiser steps that it made.
        stalls: seconds that it waited for our events and hooks, for each step.
        crowded: of these, seconds in which other processes of the machine, or other threads, held the processors.
        end: seconds that it waited for us at train end.
        produced: (key, step) of every number that was produced.
        refused: writes that a tracker refused.
        callback: the callback.
    """

    steps: int = 0
    stalls: dict[int, float] = field(default_factory=dict)
    crowded: dict[int, float] = field(default_factory=dict)
    end: float = 0.0
    produced: set[tuple[str, int]] = field(default_factory=set)
    refused: int = 0
    callback: Any = None

    @property
    def rows(self) -> set[int]:
        return {step for _, step in self.produced}

    def longest_stall(self, own: bool = False) -> float:
        """Milliseconds. The first step, which sets things up, is no step of a training's rhythm.

        With `own` without the time in which the thread was ready to go on and the machine had no processor for it.
        """
        waits = (
            seconds - (self.crowded.get(step, 0.0) if own else 0.0) for step, seconds in self.stalls.items() if step > 1
        )
        return 1000 * max(waits, default=0.0)


def queued() -> float:
    """Seconds that this thread has waited for a processor so far, as Linux counts them; elsewhere 0."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


ON_THE_TRAINING_THREAD = {
    RLDKCallback: ("on_step_begin", "on_step_end", "on_log"),
    GroupSource: ("_keep_generation", "_keep_logprobs", "_begin_backward"),
    OptimizerSource: ("_before_clipping", "_before_step", "_after_step"),
}
"""Everything of ours that a step goes through."""


@contextlib.contextmanager
def clock(outcome: Outcome, step: Callable[[], int]) -> Iterator[None]:
    """Time all that a step goes through."""

    def timed(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            # Asking the system is work of the test's own, when others may take the interpreter: it is not timed.
            waiting, number = queued(), step()
            before = time.perf_counter()
            result = original(*args, **kwargs)
            seconds = time.perf_counter() - before
            waited = queued() - waiting
            outcome.stalls[number] = outcome.stalls.get(number, 0.0) + seconds
            outcome.crowded[number] = outcome.crowded.get(number, 0.0) + min(waited, seconds)
            return result

        return call

    with contextlib.ExitStack() as stack:
        for owner, names in ON_THE_TRAINING_THREAD.items():
            for name in names:
                stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield


class Timed(RLDKCallback):
    """The callback, with a clock around the training's end."""

    outcome: Outcome

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        before = time.perf_counter()
        super().on_train_end(*args, **kwargs)
        self.outcome.end = time.perf_counter() - before


class At(TrainerCallback):
    """Does something at the beginning of a step, which then waits so many seconds, as for a device that generates."""

    def __init__(self, doings: dict[int, Callable[[], Any]], pause: float = 0.0) -> None:
        self.doings = doings
        self.pause = pause

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        doing = self.doings.get(state.global_step + 1)
        if doing is not None:
            doing()
        time.sleep(self.pause)


def train(
    folder: Path,
    trackers: list[Tracker],
    doings: dict[int, Callable[[], Any]],
    steps: int,
    pause: float = 0.0,
    **options: Any,
) -> Outcome:
    """A GRPO training of the tiny model that reports to these trackers, with something done at some steps."""
    memory = InMemoryTracker()
    callback = Timed(trackers=[memory, *trackers], **options)
    outcome = callback.outcome = Outcome(callback=callback)
    trainer = grpo_trainer(folder, max_steps=steps, callbacks=[callback, At(doings, pause)])
    with clock(outcome, lambda: int(trainer.state.global_step)):
        trainer.train()
    outcome.steps = trainer.state.global_step
    outcome.produced = {(key, step) for key, points in memory.series.items() for step, _ in points}
    outcome.refused = int(max((value for _, value in memory.series.get("rldk/system/tracker_errors", ())), default=0))
    return outcome


def stored_in_mlflow(uri: str, run_id: str) -> Counter[tuple[str, int]]:
    """How often each (key, step) of ours is in the store."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith("rldk/")]
    return Counter((key, point.step) for key in keys for point in client.get_metric_history(run_id, key))


JUDGED = "rldk/alerts/firing"
"""A key that every row has that was computed and judged."""


@dataclass(frozen=True)
class Count:
    """Rows, as steps. A row counts as stored when every number of it is.

    Attributes:
        drafts: of those in the store, the ones that were not judged: what was known of the step is all there is.
    """

    produced: int
    stored: int
    drafts: int
    lost: int
    doubled: int


def count(outcome: Outcome, stored: Counter[tuple[str, int]]) -> Count:
    missing = {step for key, step in outcome.produced - set(stored)}
    doubled = {step for (_, step), times in stored.items() if times > 1}
    drafts = {step for _, step in stored} - {step for key, step in stored if key == JUDGED}
    return Count(len(outcome.rows), len(outcome.rows - missing), len(drafts), len(missing), len(doubled))
