"""A callback that reads a source as the package does, and keeps what it saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.detect import source_for
from rldk_tracking.sources.logs import Observation


class NoWaiting(TorchDispatchMode):
    """Fails at operations that on a GPU would wait for it: those that need a value on the host."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal.", "_unique", "where.default")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(name.startswith(f"aten.{waiting}") for waiting in self.WAITING), name
        if name.startswith("aten.index"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, f"{name} with a mask"
        return func(*args, **(kwargs or {}))


class Reader(TrainerCallback):
    """Attaches the trainer's source, reads it once a step, and calls `self.look(step, observation, logs)`."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.source: Any = None
        self.shield = Shield(strict=True)
        self.observations: dict[int, Observation] = {}
        self.logs: dict[int, dict[str, Any]] = {}

    def watch(self, trainer: Any) -> Any:
        self.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)
        return trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.source = source_for(self.trainer)
        self.source.attach(self.trainer, self.shield)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not control.should_log and state.global_step not in self.logs:
            self._read(state.global_step, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "train_runtime" not in logs and not any(key.startswith("eval_") for key in logs):
            self._read(state.global_step, logs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.source.detach()

    def _read(self, step: int, logs: dict[str, Any]) -> None:
        self.logs[step] = dict(logs)
        with NoWaiting():
            observation = self.source.read(step, logs)
            # Which puts the tensors together, and must not wait for the device either.
            assert observation.rollout is None or observation.rollout.mask.ndim == 2
        self.look(step, observation, logs)

    def look(self, step: int, observation: Observation, logs: dict[str, Any]) -> None:
        self.observations[step] = observation


@pytest.fixture
def reader() -> Reader:
    return Reader()
