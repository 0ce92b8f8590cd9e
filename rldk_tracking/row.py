"""From what the ranks delivered to the one row of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from rldk_tracking.keys import lookup
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Merged

ProbeReader = Callable[[list[float]], dict[str, float]]


def row_of(
    merged: Merged, read_probe: ProbeReader | None = None, known: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Every key that exists for the step. What was computed from a rollout wins over what a trainer logged.

    Args:
        merged: the step over all ranks.
        read_probe: turns the optimizer probe's numbers into keys.
        known: what `computed` gave for it, where that was asked already.
    """
    row = merge_scalars(merged.scalars)
    if read_probe is not None and merged.probes:
        probes = [read_probe(values) for values in merged.probes]
        row |= merge_scalars(probes) | weights_spread(probes)
    row |= time_spread(merged.scalars)
    row |= computed(merged) if known is None else known
    return _finite(row)


def computed(merged: Merged, pause: Callable[[], None] = lambda: None) -> dict[str, float]:
    """The keys that follow from the step's rollout and update, whatever their values.

    Args:
        merged: the step over all ranks.
        pause: is called between two pieces of work.
    """
    row: dict[str, float] = {}
    for numbers in catalogue.each_computed(merged.rollout, merged.update):
        row |= numbers
        pause()
    return row


def draft_of(scalars: Sequence[Mapping[str, float | Tensor]], known: Mapping[str, float]) -> dict[str, float]:
    """What is known of a step before its row is computed: the numbers that lie on the host.

    Numbers on a device are left out, since reading one would wait for all that the device has been given.

    Args:
        scalars: one mapping for each rank.
        known: what `computed` gave, empty where that was not asked yet.
    """
    here = [{key: float(value) for key, value in part.items() if _is_on_host(value)} for part in scalars]
    return _finite({**merge_scalars(here), **time_spread(here), **known})


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


def time_spread(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by which the slowest rank held up the fastest, out of how long each waited for the others."""
    key = "rldk/system/rank_spread/seconds"
    waited = [part[key] for part in parts if key in part]
    return {key: max(waited) - min(waited)} if len(waited) > 1 else {}


def _finite(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if math.isfinite(value)}


def _is_on_host(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def _reduce(key: str, values: list[float]) -> float:
    known = lookup(key)
    reduce = known.reduce if known is not None else "mean"
    if reduce == "max":
        return max(values)
    if reduce == "min":
        return min(values)
    return math.fsum(values) / (len(values) if reduce == "mean" else 1)
