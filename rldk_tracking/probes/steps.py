"""What is seen of any training: memory and speed; what a rank delivers of a step, and its row.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/system/rank_spread/weights | 1 | optimizer | lower | max over ranks
        How far the ranks' copies of the weights have drifted apart; 0 while they are copies.
        = (max - min) / max of the ranks' weight norms
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import advantage, diversity, kl, length, policy, reward, sampler, value
from rldk_tracking.metrics.columns import Table, finite
from rldk_tracking.metrics.resources import ResourceMeter, ThroughputMeter
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.ranks import Merged, Part, one_of
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.wrapping import BESIDE_STEPS, EXCHANGES, Stopwatch


class RolloutGroup(Protocol):
    """A module of `rldk_tracking.metrics` that reads rollouts."""

    @property
    def COLUMNS(self) -> tuple[str, ...]:  # noqa: N802 (a module's constant)
        """Every column that `columns` may ever produce."""

    @property
    def FIELDS(self) -> tuple[str, ...]:  # noqa: N802
        """Fields of a rollout without any of which there are no columns."""

    def columns(self, rollout: Rollout) -> dict[str, Tensor]:
        """(B,) statistics on the rollout's device, without waiting for it."""

    def compute(self, table: Table) -> dict[str, float]:
        """The group's keys that exist for this table."""


class TailGroup(Protocol):
    """A module that wants high quantiles over tokens as well."""

    @property
    def TAILS(self) -> tuple[str, ...]:  # noqa: N802 (a module's constant)
        """Every name that `tails` may ever produce."""

    def tails(self, rollout: Rollout) -> dict[str, tuple[Tensor, Tensor]]:
        """Values and mask, both of one shape."""


ROLLOUT_GROUPS: tuple[RolloutGroup, ...] = (kl, policy, value, reward, advantage, length, diversity, sampler)
TAIL_GROUPS: tuple[TailGroup, ...] = (kl, advantage)
ROLLOUT_COLUMNS: tuple[str, ...] = tuple(name for group in ROLLOUT_GROUPS for name in group.COLUMNS)
UPDATE_COLUMNS: tuple[str, ...] = policy.UPDATE_COLUMNS
TAILS: tuple[str, ...] = tuple(name for group in TAIL_GROUPS for name in group.TAILS)


@torch.no_grad()
def rollout_columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) per-completion statistics of all groups; names are among `ROLLOUT_COLUMNS`."""
    known = set(rollout.present())
    groups = [group for group in ROLLOUT_GROUPS if not known.isdisjoint(group.FIELDS)]
    return {name: column for group in groups for name, column in group.columns(rollout).items()}


@torch.no_grad()
def rollout_tails(rollout: Rollout) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and mask of all quantities whose high quantiles over tokens are wanted; names are among `TAILS`."""
    return {name: tail for group in TAIL_GROUPS for name, tail in group.tails(rollout).items()}


@torch.no_grad()
def update_columns(update: PolicyUpdate) -> dict[str, Tensor]:
    """(N,) per-completion statistics of an optimiser step; names are among `UPDATE_COLUMNS`."""
    return policy.update_columns(update)


def keys_of(rollout: Table, update: Table) -> dict[str, float]:
    """Every key that exists for the merged tables of a step."""
    groups = [group for group in ROLLOUT_GROUPS if not rollout.columns.keys().isdisjoint(group.COLUMNS)]
    found = {key: number for group in groups for key, number in group.compute(rollout).items()}
    return found | policy.compute_update(rollout, update)


def part_of(
    scalars: dict[str, float | Tensor],
    vector: Tensor | None,
    rollout: Rollout | None,
    update: PolicyUpdate | None,
    shield: Shield,
) -> Part:
    """What one rank delivers of a step. What cannot be reduced is missing, since the other ranks wait for the rest.

    Args:
        scalars: key to number.
        vector: (n,) numbers of the optimizer probe.
        rollout, update: the tensors.
        shield: keeps the faults.
    """
    part = Part(scalars=scalars, probe=vector)
    if rollout is not None:
        with shield.at("reducing a rollout"):
            part.rollout = rollout_columns(rollout)
            part.tails = rollout_tails(rollout)
            part.names = reward.names(rollout)
    if update is not None:
        with shield.at("reducing an update"):
            part.update = update_columns(update)
    return part


def row_of(merged: Merged) -> dict[str, float]:
    """Every key that exists for the step. What was computed from a rollout wins over what a trainer logged."""
    return finite(merged.scalars | keys_of(merged.rollout, merged.update))


def merge_scalars(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Each rank's numbers as one row, see `one_of`."""
    gathered: dict[str, list[float]] = {}
    for part in parts:
        for key, number in part.items():
            gathered.setdefault(key, []).append(float(number))
    return {key: values[0] if len(values) == 1 else one_of(key, values) for key, values in gathered.items()}


def weights_spread(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How far the ranks' copies of the weights are apart, as a share of their norm: 0 as long as they are copies."""
    norms = [part["rldk/weight/norm"] for part in parts if "rldk/weight/norm" in part]
    if len(norms) < 2 or max(norms) == 0:
        return {}
    return {"rldk/system/rank_spread/weights": (max(norms) - min(norms)) / max(norms)}


logger = logging.getLogger(__name__)


class ResourceProbe(Probe):
    """Logs `rldk/resources/*` and `rldk/throughput/*`, see the key catalogue."""

    def __init__(self) -> None:
        self._resources: ResourceMeter | None = None
        self._throughput = ThroughputMeter()
        self._waiting: Stopwatch | None = None
        self._beside: Stopwatch | None = None

    def begin(self, training: Training) -> None:
        self._resources = ResourceMeter(device=training.device)
        self._throughput = ThroughputMeter()
        accelerator = getattr(training.trainer, "accelerator", None)
        if getattr(accelerator, "num_processes", 1) > 1:
            self._waiting = Stopwatch(accelerator, EXCHANGES)
        if training.trainer is not None:
            self._beside = Stopwatch(training.trainer, BESIDE_STEPS)

    def before_step(self, step: int) -> Mapping[str, float]:
        if self._resources is not None:
            self._resources.ask_driver()
        return {}

    def collect(self, data: StepData) -> None:
        if self._resources is None:
            return
        mask = None if data.rollout is None else data.rollout.mask
        beside = 0.0 if self._beside is None else self._beside.seconds
        data.add(self._resources.read(data.step))
        data.add(
            self._throughput.read(
                data.step,
                time.perf_counter() - beside,
                tokens=None if mask is None else mask.sum(),
                samples=None if mask is None else len(mask),
                rollout_seconds=data.rollout_seconds,
            )
        )
        if self._waiting is not None:
            data.waited_seconds += self._waiting.take()

    def end(self) -> Mapping[str, float]:
        for stopwatch in (self._waiting, self._beside):
            if stopwatch is not None:
                stopwatch.detach()
        self._resources = self._waiting = self._beside = None
        return {}
