"""All groups that are computed from a `Rollout` or a `PolicyUpdate`, in one fixed order known to every rank."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rldk_tracking.metrics import completions, kl, policy, reward, sampler, value
from rldk_tracking.metrics.table import Table
from rldk_tracking.rollout import PolicyUpdate, Rollout


class RolloutGroup(Protocol):
    """A module of this package that reads rollouts."""

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


ROLLOUT_GROUPS: tuple[RolloutGroup, ...] = (kl, policy, value, reward, completions, sampler)
TAIL_GROUPS: tuple[TailGroup, ...] = (kl, reward)
ROLLOUT_COLUMNS: tuple[str, ...] = tuple(name for group in ROLLOUT_GROUPS for name in group.COLUMNS)
UPDATE_COLUMNS: tuple[str, ...] = policy.UPDATE_COLUMNS
TAILS: tuple[str, ...] = tuple(name for group in TAIL_GROUPS for name in group.TAILS)


def names(rollout: Rollout) -> tuple[str, ...]:
    """Labels for `Table.names`: the reward functions'."""
    return reward.names(rollout)


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


def compute(rollout: Table, update: Table) -> dict[str, float]:
    """Every key that exists for the merged tables of a step."""
    groups = [group for group in ROLLOUT_GROUPS if not rollout.columns.keys().isdisjoint(group.COLUMNS)]
    found = {key: number for group in groups for key, number in group.compute(rollout).items()}
    return found | policy.compute_update(rollout, update)
