"""What every source offers: one observation a step, in the terms of `Rollout` and the key catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from rldk_tracking.isolation import Shield
    from rldk_tracking.rollout import PolicyUpdate, Rollout


Made = Callable[[], "tuple[Rollout | None, PolicyUpdate | None]"]
"""Puts a rollout and an update together."""


@dataclass(frozen=True)
class Observation:
    """What a source saw of one step on this rank.

    The tensors are put together when somebody asks for them, once, and on that one's thread: some hundred small
    operations that the training need not wait for. What they are made of is held until then.

    Attributes:
        scalars: canonical keys to numbers that the trainer alone knows; tensors are 0-dimensional, on any device.
        made: puts the rollout and the update together, from what the trainer does not change any more.
    """

    scalars: Mapping[str, float | Tensor] = field(default_factory=dict)
    made: Made = lambda: (None, None)

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
        return self.made()


def is_same(seen: Sequence[object], now: Sequence[object]) -> bool:
    """Whether the same objects, in the same order."""
    return len(seen) == len(now) and all(one is other for one, other in zip(seen, now, strict=True))


class Source(Protocol):
    """Reads one family of trainers.

    Attributes:
        rows_per_rank: the most completions that a rank delivers in a step; the same on all ranks.
        honours_stop: whether the trainer obeys `control.should_training_stop`.
        rollout_seconds: how long this rank sampled and scored for the step that was read last, None where not known.
        missing: what cannot be read from this trainer and which keys will lack, in words; said once as a warning.
        shield: keeps faults of the reading from the trainer's methods in which it happens. The run gives it its own,
            before `attach`, so that their time counts.
        ready: is told, where a source knows, that a step's last backward pass begins and what its rollout is made of.
            `read` then gives an observation of the same `made`, unless that was not all.
    """

    rows_per_rank: int
    honours_stop: bool
    rollout_seconds: float | None
    missing: list[str]
    shield: Shield
    ready: Callable[[Observation], None]

    def attach(self, trainer: Any, args: Any) -> None:
        """Install on this trainer instance what is needed to look. Once, when training begins."""

    def detach(self) -> None:
        """Take out what was installed and leave nothing behind."""

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """What there is to see of the step that has just ended. `logs` is empty where the step was not logged."""
