"""What the loss weighs the completions with, and which scores of a prompt's completions are equal: those have none.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/advantage/mean | 1 | rollout
        Advantages as the loss uses them: whitened where the trainer whitens.
        = mean over tokens (GRPO and RLOO: over completions)
    rldk/advantage/std | 1 | rollout
        Their spread.
        = standard deviation (n - 1), likewise
    rldk/advantage/raw_mean | reward | rollout
        Advantages before whitening; far from 0 the baseline is biased.
        = mean, likewise
    rldk/advantage/raw_std | reward | rollout
        Their spread before whitening, which whitening hides.
        = standard deviation (n - 1), likewise
    rldk/advantage/abs_p99 | 1 | rollout
        Whether few tokens dominate the loss.
        = 99th percentile of the magnitude, as used
    rldk/advantage/fraction_positive | 1 | rollout
        Share that is reinforced.
        = share above 0
    rldk/advantage/length_corr | 1 | rollout
        Whether training pushes towards longer (above 0) or shorter completions.
        = Spearman over completions of the (mean) advantage, before whitening where known, with the length
    rldk/reward/group_tied_fraction_all_max | 1 | rollout
        Share of groups tied at the highest score: solved prompts. The highest is the task's where it is stated, else
        that of the run so far; absent while every score was the same.
        = tied groups at the highest score / groups of several scored completions; ties as of group_tied_fraction
    rldk/reward/group_tied_fraction_all_min | 1 | rollout | lower
        Share of groups tied at the lowest score of the run so far: prompts that are too hard; absent while every score
        was the same.
        = tied groups at the lowest score, and not at the highest / groups of several scored completions

The correlation is of ranks because both are skewed: one long completion must not decide it. It reads the column
length/tokens, and the raw advantages where they are there: whitening does not change an order within one batch,
but trainers whiten each rank or minibatch by itself.

A batch alone cannot say which of its scores are the task's highest and lowest: where all of them are equal they may be
either. So the ends are the lowest and the highest score of the run so far, this batch's among them. The highest is
`max_score` where the task states it. Until a second score was seen nobody can say which of the two the first one is,
and both keys are absent, unless a `max_score` is stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.columns import Table, count_of, finite, merge_moments, moment_columns, moment_names, precise
from rldk_tracking.metrics.statistics import Array, Labels, spearman
from rldk_tracking.rollout import Rollout

COLUMNS = (*moment_names("advantage/used"), *moment_names("advantage/raw"), "advantage/positive")
TAILS = ("advantage/magnitude",)
FIELDS = ("advantages", "raw_advantages")


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) moments of each completion's advantages, and how many of them are positive."""
    found: dict[str, Tensor] = {}
    if rollout.advantages is not None:
        found |= _moments("advantage/used", rollout.advantages, rollout.mask)
        positive = rollout.advantages > 0
        if positive.ndim == 2:
            found["advantage/positive"] = count_of(positive & rollout.mask.bool())
        else:
            found["advantage/positive"] = precise(positive)
    if rollout.raw_advantages is not None:
        found |= _moments("advantage/raw", rollout.raw_advantages, rollout.mask)
    return found


def tails(rollout: Rollout) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and mask of the quantities whose high quantiles are wanted."""
    if rollout.advantages is None:
        return {}
    magnitude = rollout.advantages.abs()
    known = ~magnitude.isnan()
    if magnitude.ndim == 1:
        return {"advantage/magnitude": (magnitude[:, None], known[:, None])}
    return {"advantage/magnitude": (magnitude, known & rollout.mask.bool())}


def compute(table: Table) -> dict[str, float]:
    """`rldk/advantage/...`.

    >>> rollout = Rollout(torch.ones(3, 2), advantages=torch.tensor([1.0, -1.0, 3.0]))
    >>> table = Table({name: column.numpy() for name, column in columns(rollout).items()})
    >>> found = compute(table)
    >>> found["rldk/advantage/mean"], found["rldk/advantage/std"]
    (1.0, 2.0)
    """
    metrics: dict[str, float | None] = {}
    used, raw = merge_moments(table, "advantage/used"), merge_moments(table, "advantage/raw")
    if used is not None:
        metrics["rldk/advantage/mean"] = used.mean
        metrics["rldk/advantage/std"] = used.std
        positive, means = table.get("advantage/positive"), table.get("advantage/used/mean")
        if positive is not None and means is not None:
            metrics["rldk/advantage/fraction_positive"] = float(positive[means == means].sum()) / used.count
    if raw is not None:
        metrics["rldk/advantage/raw_mean"] = raw.mean
        metrics["rldk/advantage/raw_std"] = raw.std
    if "advantage/magnitude" in table.tails:
        metrics["rldk/advantage/abs_p99"] = table.tails["advantage/magnitude"].quantile(0.99)
    means, lengths = table.get("advantage/raw/mean"), table.get("length/tokens")
    means = means if means is not None else table.get("advantage/used/mean")
    if means is not None and lengths is not None:
        both = np.isfinite(means) & np.isfinite(lengths)
        ranked = merge_near_ties(means[both], np.zeros(int(both.sum()), dtype=np.intp))
        metrics["rldk/advantage/length_corr"] = spearman(ranked, lengths[both])
    return finite(metrics)


def _moments(prefix: str, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Over the tokens of each completion; where a completion has one advantage, of that one number."""
    if advantages.ndim == 2:
        return moment_columns(prefix, advantages, mask)
    mean = precise(advantages)
    return dict(zip(moment_names(prefix), (torch.ones_like(mean), mean, torch.zeros_like(mean)), strict=True))


TIE_TOLERANCE = 1e-8
"""Scores whose standard deviation is at most this count as equal, as in TRL's `frac_reward_zero_std` (isclose to 0)."""
RELATIVE_TIE = 1e-6
"""Scores count as equal too where they differ by at most this share of the largest magnitude among them. A weighted sum
of rewards is one in float32, whose last bit is 6e-8 of a number: equal sums made of different parts may differ in it,
and TRL's tolerance, which is absolute, lets those pass that are larger than about 0.1."""


def merge_near_ties(values: Array, labels: Labels) -> Array:
    """The same values, but those of a group that are apart by `RELATIVE_TIE` of its largest magnitude made equal.

    Args:
        values: (n,) finite.
        labels: (n,) numbers 0, 1, ... of the groups.

    >>> merge_near_ties(np.array([1.0, 1.0 + 1e-8, 2.0]), np.array([0, 0, 0])).tolist()
    [1.0, 1.0, 2.0]
    """
    if len(values) == 0:
        return values
    size = np.zeros(int(labels.max()) + 1)
    np.maximum.at(size, labels, np.abs(values))
    order = np.lexsort((values, labels))
    ordered, group = values[order], labels[order]
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = (group[1:] != group[:-1]) | (np.diff(ordered) > RELATIVE_TIE * size[group[1:]])
    merged = np.empty_like(values)
    merged[order] = ordered[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return merged


@dataclass(frozen=True)
class Groups:
    """The groups of n completions that have a finite value.

    Attributes:
        labels: (n,) numbers 0, 1, ... of the groups.
        values: (n,) finite.

    >>> groups = Groups.of(np.array([7.0, 7.0, 9.0, 9.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    >>> groups.size.tolist(), groups.tied.tolist()
    ([2.0, 2.0], [1.0, 0.0])
    """

    labels: Labels
    values: Array

    @classmethod
    def of(cls, group_ids: Array, values: Array) -> Groups:
        """Sort rows into groups, leaving out those without a group or a value."""
        known = np.isfinite(group_ids) & np.isfinite(values)
        labels = np.unique(group_ids[known], return_inverse=True)[1].reshape(-1)
        return cls(labels, values[known])

    @cached_property
    def size(self) -> Array:
        """How many completions each group has."""
        return np.bincount(self.labels).astype(np.float64)

    @cached_property
    def lowest(self) -> Array:
        """Each group's lowest value."""
        lowest = np.full(len(self.size), np.inf)
        np.minimum.at(lowest, self.labels, self.values)
        return lowest

    @cached_property
    def highest(self) -> Array:
        """Each group's highest value."""
        highest = np.full(len(self.size), -np.inf)
        np.maximum.at(highest, self.labels, self.values)
        return highest

    @cached_property
    def std(self) -> Array:
        """Each group's sample standard deviation, NaN in groups of one, exactly 0 where all values are the same."""
        size = self.size
        means = np.bincount(self.labels, weights=self.values) / size
        squares = np.bincount(self.labels, weights=np.square(self.values - means[self.labels]))
        squares[self.highest == self.lowest] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(squares / np.where(size > 1, size - 1, np.nan))

    @cached_property
    def tied(self) -> Array:
        """1.0 where all completions of a group have the same value, 0.0 where not, NaN in groups of one."""
        size = np.maximum(np.abs(self.lowest), np.abs(self.highest))
        same = (self.std <= TIE_TOLERANCE) | (self.highest - self.lowest <= RELATIVE_TIE * size)
        return np.where(np.isnan(self.std), np.nan, same)


class RewardRange:
    """Follows the scores of a run.

    Attributes:
        lowest, highest: infinite until a score was seen.

    >>> table = Table({"reward/score": np.array([1.0, 1.0, 0.0, 1.0]), "reward/group": np.array([0.0, 0.0, 1.0, 1.0])})
    >>> RewardRange().shares(table)["rldk/reward/group_tied_fraction_all_max"]
    0.5
    """

    def __init__(self) -> None:
        self.lowest, self.highest = math.inf, -math.inf

    def shares(self, table: Table) -> dict[str, float]:
        """Take in the scores of a step over all ranks; returns the keys that exist for it."""
        scores, group_ids = table.get("reward/score"), table.get("reward/group")
        if scores is None:
            return {}
        known = scores[np.isfinite(scores)]
        self.lowest = min(self.lowest, float(known.min()))
        self.highest = max(self.highest, float(known.max()))
        if group_ids is None:
            return {}
        groups = Groups.of(group_ids, scores)
        several = np.isfinite(groups.tied)
        stated = table.get("reward/max_score")
        # A weighted sum may miss an end by a rounding error.
        margin = RELATIVE_TIE * max(abs(self.lowest), abs(self.highest))
        top = self.highest - margin if stated is None else float(np.nanmax(stated)) - max(margin, RELATIVE_TIE)
        if not several.any() or (stated is None and self.lowest >= top):
            return {}
        at_top = (groups.tied == 1.0) & (groups.highest >= top)
        at_bottom = (groups.tied == 1.0) & (groups.lowest <= self.lowest + margin) & ~at_top
        return {
            "rldk/reward/group_tied_fraction_all_max": float(at_top[several].mean()),
            "rldk/reward/group_tied_fraction_all_min": float(at_bottom[several].mean()),
        }

    def state(self) -> dict[str, float]:
        """Plain data from which `load_state` goes on; empty before the first score."""
        return {} if self.lowest > self.highest else {"lowest": self.lowest, "highest": self.highest}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self.lowest = min(self.lowest, state.get("lowest", math.inf))
        self.highest = max(self.highest, state.get("highest", -math.inf))
