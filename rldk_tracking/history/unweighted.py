"""The score that a past run logged beside its reward without training on it.

Whoever logs a reward function of weight 0 (TRL: `reward_weights=[1.0, 0.0]`) wants to see whether the task is done
better. A log does not say the weights, but its numbers do: the reward is their weighted sum in every row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from rldk_tracking.history.handwritten import NAMES, plain
from rldk_tracking.sources.aliases import ALIASES
from rldk_tracking.sources.logs import number

KEY = "rldk/reward/unweighted"
ROWS = 10
"""Rows that have all of the scores, below which a sum that comes out right may be chance."""

_PART = re.compile(r"rewards?/(?P<name>[^/]+)(/mean)?")
_NO_PART = re.compile(r"(^|_)(mean|std|min|max|median|var|total|sum|minus|diff|difference|gap|delta)(_|$)|^p\d+$")
"""Statistics of the reward, and what is made of two scores."""


def unweighted_score(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """The name of the one score that is no part of the reward, None where there is none or it cannot be told.

    The weights are solved for by least squares. They must explain the reward to a thousandth of its spread in every
    row, in one way only. A score that has less than a hundredth of the largest weight, and moves the reward by less
    than a hundredth of its spread, is then no part, provided that it varies ten times as much as what is left
    unexplained: of a constant no weight can be told.

    Args:
        entries: what was logged, in order.
    """
    names = {plain(str(name)): str(name) for kind, _ in groupby(map(tuple, entries)) for name in kind}
    reward = next((raw for name, raw in names.items() if _key(name) == "rldk/reward/mean"), None)
    parts = [raw for name, raw in names.items() if raw != reward and _is_part(name)]
    if reward is None or len(parts) < 2:
        return None
    rows = [[number(entry.get(name)) for name in (reward, *parts)] for entry in entries]
    table = np.array([row for row in rows if None not in row], dtype=np.float64)
    table = table[np.isfinite(table).all(axis=1)] if table.size else table
    if len(table) < max(ROWS, 2 * len(parts)):
        return None
    target, scores = table[:, 0], table[:, 1:]
    spread, spreads = float(target.std()), scores.std(axis=0)
    if spread == 0.0:
        return None
    weights, _, rank, _ = np.linalg.lstsq(scores, target, rcond=1e-9)
    unexplained = float(np.abs(scores @ weights - target).max())
    if rank < len(parts) or unexplained > 1e-3 * spread:
        return None
    least = 0.01 * float(np.abs(weights).max())
    left_out = [
        name
        for name, weight, varies in zip(parts, weights, spreads, strict=True)
        if abs(weight) < least and abs(weight) * varies < 0.01 * spread and varies > 10.0 * unexplained
    ]
    return left_out[0] if len(left_out) == 1 else None


def _key(name: str) -> str | None:
    return ALIASES.get(name) or NAMES.get(name)


def _is_part(name: str) -> bool:
    match = _PART.fullmatch(name)
    return match is not None and _NO_PART.search(match["name"]) is None
