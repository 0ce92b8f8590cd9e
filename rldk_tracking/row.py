"""From the tensors of a step to what a rank delivers, and from what all ranks delivered to the one row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.keys import lookup
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Merged, Part
from rldk_tracking.rollout import PolicyUpdate, Rollout


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
            part.rollout = catalogue.rollout_columns(rollout)
            part.tails = catalogue.rollout_tails(rollout)
            part.names = catalogue.names(rollout)
    if update is not None:
        with shield.at("reducing an update"):
            part.update = catalogue.update_columns(update)
    return part


def row_of(merged: Merged) -> dict[str, float]:
    """Every key that exists for the step. What was computed from a rollout wins over what a trainer logged."""
    row = merge_scalars(merged.scalars)
    return finite(row | catalogue.compute(merged.rollout, merged.update))


def merge_scalars(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Per-rank numbers as one, in the way that the key's row in the catalogue says ("mean" for a key without one)."""
    gathered: dict[str, list[float]] = {}
    for part in parts:
        for key, value in part.items():
            gathered.setdefault(key, []).append(float(value))
    return {key: values[0] if len(values) == 1 else _reduce(key, values) for key, values in gathered.items()}


def weights_spread(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How far the ranks' copies of the weights are apart, as a share of their norm: 0 as long as they are copies."""
    norms = [part["rldk/weight/norm"] for part in parts if "rldk/weight/norm" in part]
    if len(norms) < 2 or max(norms) == 0:
        return {}
    return {"rldk/system/rank_spread/weights": (max(norms) - min(norms)) / max(norms)}


def finite(row: Mapping[str, float]) -> dict[str, float]:
    """The numbers that are."""
    return {key: value for key, value in row.items() if math.isfinite(value)}


def _reduce(key: str, values: list[float]) -> float:
    known = lookup(key)
    reduce = known.reduce if known is not None else "mean"
    if reduce == "max":
        return max(values)
    if reduce == "min":
        return min(values)
    return math.fsum(values) / (len(values) if reduce == "mean" else 1)
