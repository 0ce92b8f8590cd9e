"""What a probe is: an object that is asked at each step what it saw; and the probes of one run.

A probe knows the training, not the run: what it saw goes into the `StepData` that it is given, what it has to show
through `Training.publish`. Probes do not know each other; of those that come earlier in the list it sees the numbers.
A fault in one of them costs what that one sees, and is logged once.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import finite
from rldk_tracking.ranks import Merged

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rldk_tracking.ranks import Merged
    from rldk_tracking.rollout import PolicyUpdate, Rollout


logger = logging.getLogger(__name__)

Publish = Callable[..., None]
"""Has a method of every tracker called: `publish("log_table", key, columns, rows, step)`. On rank 0; others drop it."""


@dataclass(frozen=True)
class Training:
    """What a probe may know of the training that it looks at.

    Attributes:
        trainer, args, model, optimizer: of transformers; None in a loop of the user's own.
        device: where the model is; None where it is not known.
        shield: keeps faults in hooks of a probe from the trainer's methods in which they happen.
        publish: shows tables, pictures and checkpoints.
        report: takes numbers that cannot wait for the end of the step that is under way.
    """

    trainer: Any = None
    args: Any = None
    model: Any = None
    optimizer: Any = None
    device: torch.device | None = None
    shield: Shield = field(default_factory=Shield)
    publish: Publish = lambda method, *args: None
    report: Callable[[Mapping[str, float]], None] = lambda scalars: None


@dataclass
class StepData:
    """What was seen of one step on this rank; probes add to it in turn.

    Attributes:
        step: the global step.
        logs: what the trainer logged of it, empty where it did not.
        is_last: whether training ends with it.
        rollout, update: the tensors of the step.
        scalars: key to number; tensors have one element, on any device.
        rollout_seconds: how long this rank sampled and scored, where that is known.
        waited_seconds: how long this rank waited for the others in the trainer's own exchanges.
        vector: (n,) numbers that only the probe which made them can read, on the device.
    """

    step: int
    logs: Mapping[str, Any] = field(default_factory=dict)
    is_last: bool = False
    rollout: Rollout | None = None
    update: PolicyUpdate | None = None
    scalars: dict[str, float | Tensor] = field(default_factory=dict)
    rollout_seconds: float | None = None
    waited_seconds: float = 0.0
    vector: Tensor | None = None

    def add(self, scalars: Mapping[str, Any], override: bool = True) -> None:
        """Add single numbers; what is none is left out. With `override` False a number that is there already stays."""
        for key, value in scalars.items():
            if (override or key not in self.scalars) and is_number(value):
                self.scalars[str(key)] = value


class Probe:
    """Looks at one thing. Every method may be left as it is."""

    rows_per_rank = 0
    """The most completions that this rank delivers in a step; 0 where the probe delivers none."""
    honours_stop = True
    """False where the probe knows that the trainer does not obey `control.should_training_stop`."""

    def reads(self, training: Training) -> bool:
        """Whether this training may have anything to look at for it; a probe that says no is left out of the run."""
        return True

    def begin(self, training: Training) -> None:
        """Training begins: install what is needed to look."""

    def before_step(self, step: int) -> Mapping[str, float]:
        """The step after `step` is about to be made. What is returned must be known before it."""
        return {}

    def collect(self, data: StepData) -> None:
        """A step is over: add what was seen of it."""

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> Mapping[str, float]:
        """What follows from a step over all ranks and those before it; on rank 0."""
        return {}

    def state(self) -> Mapping[str, Any]:
        """What a resumed training needs to go on looking, as plain data; empty where that is nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, after `begin` and before the first step."""

    def saved(self, step: int) -> None:
        """A checkpoint was written."""

    def late_rows(self) -> Mapping[int, Mapping[str, float]]:
        """Step to what has become known of it since its row was written, once; on rank 0. Asked for at each step, and
        after `end`."""
        return {}

    def end(self) -> Mapping[str, float]:
        """Training is over: take out what was installed. What is returned was known only now."""
        return {}


def is_number(value: Any) -> bool:
    """Whether this can be a value of a row: a number, or a tensor of one real element."""
    if isinstance(value, (int, float)):
        return True
    return getattr(value, "numel", None) is not None and value.numel() == 1 and not value.is_complex()


def options_of(probe: Probe) -> dict[str, Any]:
    """What the probe was made with, as far as it keeps it under the names of its constructor."""
    names = inspect.signature(type(probe).__init__).parameters
    return {name: getattr(probe, name) for name in names if hasattr(probe, name)}


def _say_differences(first: Probe, later: Probe) -> None:
    mine, theirs = options_of(first), options_of(later)
    differing = [name for name in mine if first is not later and mine[name] != theirs.get(name)]
    if differing:
        used, unused = (", ".join(f"{name}={options[name]!r}" for name in differing) for options in (mine, theirs))
        about = "rldk: several monitors of one training have a %s: %s of the first is used, %s of another is not."
        logger.warning(about, type(first).__name__, used, unused)


class ProbeSet:
    """Probes in the order in which they were added, each type once.

    Args:
        shield: keeps their faults from the trainer.
    """

    def __init__(self, shield: Shield) -> None:
        self._shield = shield
        self._probes: list[Probe] = []

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes)

    @property
    def rows_per_rank(self) -> int:
        """The most completions that this rank delivers in a step; 0 where no probe delivers any."""
        return max((probe.rows_per_rank for probe in self._probes), default=0)

    @property
    def honours_stop(self) -> bool:
        """Whether the trainer obeys the stop flag, as far as a probe knows."""
        return all(probe.honours_stop for probe in self._probes)

    def add(self, probes: Sequence[Probe], training: Training) -> list[Probe]:
        """Begin those with anything to look at of which there is none of the same type yet.

        Returns those that look, in the same order.

        Where one of the same type has other options, a warning says that they are not used.
        """
        found = []
        for probe in probes:
            known = next((other for other in self._probes if type(other) is type(probe)), None)
            if known is not None:
                _say_differences(known, probe)
                found.append(known)
                continue
            with self._shield.at(f"{type(probe).__name__} at train begin"):
                if probe.reads(training):
                    self._probes.append(probe)
                    found.append(probe)
                    probe.begin(training)
        return found

    def before_step(self, step: int) -> dict[str, float]:
        """What must be known before the step after `step`."""
        found: dict[str, float] = {}
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} before a step"):
                found.update(probe.before_step(step))
        return found

    def collect(self, data: StepData) -> None:
        """Add what was seen of a step."""
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at a step"):
                probe.collect(data)

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> dict[str, float]:
        """The row with what follows from the step over all ranks and those before it."""
        whole = dict(row)
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at a row"):
                whole.update(finite(probe.derive(step, whole, merged)))
        return whole

    def state(self) -> dict[str, Any]:
        """Type of probe to its state, of those that have one."""
        return {type(probe).__name__: dict(state) for probe in self._probes if (state := probe.state())}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what a run has stored: the probes' states are under "probes"."""
        states = state.get("probes") if isinstance(state, Mapping) else None
        if not isinstance(states, Mapping):
            return
        for probe in self._probes:
            if type(probe).__name__ in states:
                with self._shield.at(f"{type(probe).__name__} at resuming"):
                    probe.load_state(states[type(probe).__name__])

    def saved(self, step: int) -> None:
        """A checkpoint was written."""
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at a save"):
                probe.saved(step)

    def late_rows(self) -> dict[int, dict[str, float]]:
        """What has become known of steps whose rows were written, in the order of the steps."""
        found: dict[int, dict[str, float]] = {}
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} of earlier steps"):
                for step, row in probe.late_rows().items():
                    found.setdefault(step, {}).update(row)
        return dict(sorted(found.items()))

    def end(self, step: int) -> dict[int, dict[str, float]]:
        """Take out what was installed; returns rows of what was known only now, `step` being the last one."""
        last: dict[str, float] = {}
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at train end"):
                last.update(probe.end())
        rows = self.late_rows()
        if last:
            rows[step] = rows.get(step, {}) | last
        return dict(sorted(rows.items()))
