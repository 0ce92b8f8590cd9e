"""A training whose process goes on, as in a notebook, leaves nothing behind, also where an exception ended it."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from rldk_tracking import demo
from rldk_tracking.callback import RLDKCallback
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.journal.publisher import BROKEN_OFF
from rldk_tracking.sources.optimizer import OptimizerSource
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.records import parsed
from tests.faults.processes import wait_for
from tests.trackers.conftest import free_port

OURS = "rldk_tracking."
TRAINERS = {"grpo": demo.grpo_trainer, "ppo": demo.ppo_trainer}


class Break(TrainerCallback):
    """Raises in the middle of a step, or where PPO says that one is over, until it is told not to."""

    def __init__(self, after: int | None = 1) -> None:
        self.after = after

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._break(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._break(state.global_step - 1)

    def _break(self, done: int) -> None:
        if self.after is not None and done >= self.after:
            raise KeyboardInterrupt


@contextlib.contextmanager
def counted(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The calls of a method."""
    calls: list[int] = []
    original = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield calls


def hooks(trainer: Any) -> list[Any]:
    """What of ours is installed on a trainer."""
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    found = [value for owner in (trainer, trainer.accelerator) for value in vars(owner).values()]
    if optimizer is not None:
        found += [*optimizer._optimizer_step_pre_hooks.values(), *optimizer._optimizer_step_post_hooks.values()]
    functions = (types.FunctionType, types.MethodType)
    return [value for value in found if isinstance(value, functions) and value.__globals__["__name__"].startswith(OURS)]


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("after", [0, 1, None])
def test_it_does_not_keep_its_model(kind: str, after: int | None, tmp_path: Path) -> None:
    trainer = TRAINERS[kind](tmp_path, max_steps=3)
    tracker = InMemoryTracker()
    trainer.add_callback(RLDKCallback(trackers=[tracker]))
    trainer.add_callback(Break(after))
    with contextlib.suppress(KeyboardInterrupt):
        trainer.train()
    alive = [weakref.ref(trainer), weakref.ref(next(iter(trainer.model.parameters())))]
    del trainer
    until = time.monotonic() + 10
    while any(ref() is not None for ref in alive) and time.monotonic() < until:
        time.sleep(0.05)  # the last row is being computed
        gc.collect()
    assert [ref() for ref in alive] == [None, None]
    # How a training ended that nobody closed is said at exit.
    assert [status for _, status in tracker.statuses][1:] == (["finished"] if after is None else [])


@pytest.mark.parametrize("kind", TRAINERS)
def test_who_keeps_the_callback_does_not_keep_the_model(kind: str, tmp_path: Path) -> None:
    """To look at its alerts, when training is over."""
    trainer = TRAINERS[kind](tmp_path, max_steps=2)
    callback = RLDKCallback(trackers=[InMemoryTracker()])
    trainer.add_callback(callback)
    trainer.train()
    alive = [weakref.ref(trainer), weakref.ref(next(iter(trainer.model.parameters())))]
    del trainer
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    assert callback.metrics.step == 2


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("after", [0, 1])
def test_the_next_training_is_measured_once_and_leaves_nothing(
    kind: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    trainer, breaks, tracker = TRAINERS[kind](tmp_path, max_steps=3), Break(after), InMemoryTracker()
    trainer.add_callback(RLDKCallback(trackers=[tracker]))
    trainer.add_callback(breaks)
    clean = hooks(trainer)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert hooks(trainer) != clean
    breaks.after = None
    plain = TRAINERS[kind](tmp_path / "plain", max_steps=3)
    plain.add_callback(RLDKCallback(trackers=[InMemoryTracker()]))
    with counted(OptimizerSource, "_look_after", monkeypatch) as expected:
        plain.train()
    with counted(OptimizerSource, "_look_after", monkeypatch) as calls:
        trainer.train()
    assert len(calls) == len(expected) > 0
    assert hooks(trainer) == clean == []
    assert tracker.statuses[-1][1] == "finished"
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("rldk")]


def test_trainings_that_are_broken_off_leave_no_thread_and_say_so(tmp_path: Path) -> None:
    """Each with a trainer and a callback of its own, as cells of a notebook, and a server that does not answer."""
    pytest.importorskip("mlflow", reason="needs mlflow")
    from rldk_tracking.trackers.mlflow import MLflowTracker

    kept = []
    for number in range(3):
        trainer = demo.grpo_trainer(tmp_path / str(number), max_steps=3)
        trainer.add_callback(RLDKCallback(trackers=[MLflowTracker("0" * 32, f"http://127.0.0.1:{free_port()}")]))
        trainer.add_callback(Break())
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        kept.append(trainer)
        ended = [list(parsed(path.read_bytes().splitlines())) for path in sorted(tmp_path.glob("*/_rldk/run.jsonl"))]
        for records in ended[:-1]:
            (end,) = [record for record in records if record["type"] == "end"]
            assert (end["status"], end["exception"]) == ("crashed", BROKEN_OFF), "the next one has begun"
    assert wait_for(lambda: not [t for t in threading.enumerate() if t.name.startswith("rldk")], 5)
    records = list(parsed((tmp_path / "2" / "_rldk" / "run.jsonl").read_bytes().splitlines()))
    assert [record["status"] for record in records if record["type"] == "end"] == ["crashed"]
    assert len(kept) == 3


def test_a_trainer_that_had_to_be_stopped_by_an_exception_has_no_hook_left(tmp_path: Path) -> None:
    """TRL's PPO does not look at the flag."""
    tracker = InMemoryTracker()
    overrides = {"kl.high": {"threshold": 0.0, "severity": "critical"}}
    trainer = demo.ppo_trainer(tmp_path, max_steps=30)
    callback = RLDKCallback(trackers=[tracker], on_critical="stop", overrides=overrides)
    trainer.add_callback(callback)
    with pytest.raises(TrainingStopped):
        trainer.train()
    assert hooks(trainer) == []
    assert tracker.statuses[-1][1] == "stopped"
