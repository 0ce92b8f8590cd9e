"""How many groups of completions are tied at an end of the scale of rewards, by what the run has seen of the scale.

Keys, read by `rldk_tracking.keys`:

    rldk/reward/group_tied_fraction_all_max | 1 | rollout
        Share of groups tied at the highest score: solved prompts. The highest is the task's where it is stated, else
        that of the run so far; absent while every score was the same.
        = share of groups of several scored completions
    rldk/reward/group_tied_fraction_all_min | 1 | rollout | lower
        Share of groups tied at the lowest score of the run so far: prompts that are too hard; absent while every score
        was the same.
        = share of groups of several scored completions

A batch alone cannot say which of its scores are the task's highest and lowest: where all of them are equal they may be
either. So the ends are the lowest and the highest score of the run so far, this batch's among them. The highest is
`max_score` where the task states it. Until a second score was seen nobody can say which of the two the first one is,
and both keys are absent, unless a `max_score` is stated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rldk_tracking.metrics.groups import RELATIVE_TIE, Groups
from rldk_tracking.metrics.table import Table


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
