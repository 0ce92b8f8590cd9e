"""What every source offers: one observation a step, in the terms of `Rollout` and the key catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from rldk_tracking.isolation import Shield
    from rldk_tracking.rollout import PolicyUpdate, Rollout


ReadTensors = Callable[[], "tuple[Rollout | None, PolicyUpdate | None]"]
"""Builds the rollout and the update of a step."""


@dataclass(frozen=True)
class Observation:
    """What a source saw of one step on this rank.

    Attributes:
        scalars: canonical keys to numbers that the trainer alone knows; tensors are 0-dimensional, on any device.
        read_tensors: builds the rollout and the update. A fault in it costs them and leaves the scalars.
    """

    scalars: Mapping[str, float | Tensor] = field(default_factory=dict)
    read_tensors: ReadTensors = lambda: (None, None)

    @property
    def rollout(self) -> Rollout | None:
        """What was sampled, None in steps that train on an earlier rollout."""
        return self._tensors[0]

    @property
    def update(self) -> PolicyUpdate | None:
        """What the optimiser step saw."""
        return self._tensors[1]

    @cached_property
    def _tensors(self) -> tuple[Rollout | None, PolicyUpdate | None]:
        return self.read_tensors()


class Source(Protocol):
    """Reads one family of trainers.

    Attributes:
        rows_per_rank: the most completions that a rank delivers in a step; the same on all ranks.
        honours_stop: whether the trainer obeys `control.should_training_stop`.
        rollout_seconds: how long this rank sampled and scored for the step that was read last, None where not known.
        missing: what cannot be read from this trainer and which keys will lack, in words; said once as a warning.
        shield: keeps faults of the reading from the trainer's methods in which it happens. The run gives it its own,
            before `attach`, so that their time counts.
    """

    rows_per_rank: int
    honours_stop: bool
    rollout_seconds: float | None
    missing: list[str]
    shield: Shield

    def attach(self, trainer: Any, args: Any) -> None:
        """Install on this trainer instance what is needed to look. Once, when training begins."""

    def detach(self) -> None:
        """Take out what was installed and leave nothing behind."""

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """What there is to see of the step that has just ended. `logs` is empty where the step was not logged."""
