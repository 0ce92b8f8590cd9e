"""What a scan says, as series, as a table of layers and as text; and what several scans say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rldk_tracking.checkpoint import score
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.metrics.statistics import spread

GIB = float(1 << 30)
LAYER_COLUMNS = ("layer", "norm", "largest", "zeros", "not finite", "drift", "cosine", "norm ratio")
WORSE = 0.1
"""By how much a score must lie below the best one to count as worse."""


def metrics(found: Scan) -> dict[str, float]:
    """The `rldk/checkpoint/*` keys that exist for this scan."""
    kinds = [problem.kind for problem in found.problems]
    known = score.parts(found)
    row: dict[str, float | None] = {
        "rldk/checkpoint/score": score.score(known),
        "rldk/checkpoint/corrupt": float(len({p.name for p in found.problems if p.kind == "corrupt"})),
        "rldk/checkpoint/incomplete": float(kinds.count("incomplete")),
        "rldk/checkpoint/size_gib": found.nbytes / GIB,
        "rldk/checkpoint/scan_seconds": found.seconds,
        "rldk/checkpoint/adapter_norm": found.adapter_norm,
        "rldk/checkpoint/adapter_ratio": found.adapter_ratio,
    }
    row |= {f"rldk/checkpoint/part/{name}": value for name, value in known.items()}
    if found.tensors:
        row["rldk/checkpoint/nonfinite"] = float(len(found.nonfinite))
        row["rldk/checkpoint/norm"] = math.sqrt(sum(t.norm**2 for t in found.tensors.values()))
        row["rldk/checkpoint/zero_fraction"] = sum(t.zeros * t.count for t in found.tensors.values()) / max(
            1, sum(t.count for t in found.tensors.values())
        )
        ranks = [t.stable_rank for t in found.tensors.values() if t.stable_rank is not None]
        row |= spread("rldk/checkpoint/stable_rank", ranks, extremes=False)
    row |= _compared(found, kinds)
    return {key: value for key, value in row.items() if value is not None and math.isfinite(value)}


def _compared(found: Scan, kinds: Sequence[str]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for label, key in (("first", "drift"), ("previous", "drift_previous"), ("reference", "drift_reference")):
        drift = found.drift(label)
        if drift is not None:
            row[f"rldk/checkpoint/{key}"] = drift.relative
    previous, unchanged = found.drift("previous"), found.unchanged("previous")
    if "previous" in found.compared:
        row["rldk/checkpoint/changed_tensors"] = float(kinds.count("changed"))
    if unchanged is not None:
        row["rldk/checkpoint/unchanged"] = float(unchanged)
    if previous is None:
        return row
    row["rldk/checkpoint/cosine_previous"] = previous.cosine
    drifts = [found.drift("previous", layer) for layer in found.layers()]
    relative = [drift.relative for drift in drifts if drift is not None]
    if not unchanged:
        still = [drift.distance == 0 for drift in drifts if drift is not None]
        row["rldk/checkpoint/still_layers"] = float(sum(still))
    row |= spread("rldk/checkpoint/layer_drift", [value for value in relative if value is not None], extremes=False)
    ratios = score.norm_ratios(found, "previous").values()
    if ratios:
        row["rldk/checkpoint/layer_norm_ratio_max"] = max(ratios)
        row["rldk/checkpoint/layer_norm_ratio_min"] = min(ratios)
    return row


def layer_rows(found: Scan, label: str = "previous", limit: int | None = None) -> list[list[str | float | None]]:
    """One row for each layer under LAYER_COLUMNS, the worst first: not finite, then norm furthest from what it was,
    then drift."""
    ratios = score.norm_ratios(found, label)

    def badness(layer: str) -> tuple[float, float, float]:
        broken = sum(t.nan + t.infinite for t in found.layers()[layer])
        ratio, drift = ratios.get(layer, 1.0), found.drift(label, layer)
        change = abs(math.log(ratio)) if ratio > 0 else math.inf
        return float(broken), change, (drift.relative or 0.0) if drift is not None else 0.0

    layers = found.layers()
    rows: list[list[str | float | None]] = []
    for layer in sorted(layers, key=badness, reverse=True)[:limit]:
        tensors, drift = layers[layer], found.drift(label, layer)
        count = max(1, sum(t.count for t in tensors))
        rows.append(
            [
                layer,
                math.sqrt(sum(t.norm**2 for t in tensors)),
                max(t.largest for t in tensors),
                sum(t.zeros * t.count for t in tensors) / count,
                float(sum(t.nan + t.infinite for t in tensors)),
                None if drift is None else drift.relative,
                None if drift is None else drift.cosine,
                ratios.get(layer),
            ]
        )
    return rows


def text(found: Scan, label: str = "previous", limit: int = 5) -> str:
    """A few lines for a terminal."""
    known = score.parts(found)
    total = score.score(known)
    lines = [
        f"{found.path}: {len(found.entries)} tensors, {found.nbytes / GIB:.3g} GiB, read in {found.seconds:.1f} s",
        "  score "
        + ("unknown" if total is None else f"{total:.2f}")
        + "".join(f", {name} {value:.4g}" for name, value in known.items()),
    ]
    for other in found.compared:
        drift = found.drift(other)
        if drift is not None and drift.relative is not None:
            angle = "" if drift.cosine is None else f", cosine {drift.cosine:.6f}"
            lines.append(f"  {drift.relative:.3g} of its norm away from {other}{angle}")
    if found.unchanged(label):
        lines.append(f"  every tensor is that of {label}: nothing was learnt in between")
    for kind in ("corrupt", "incomplete", "changed", "disk"):
        lines += _first([f"  {kind}: {problem.message}" for problem in found.problems if problem.kind == kind])
    lines += _first([f"  not finite: {name}" for name in found.nonfinite])
    for row in layer_rows(found, label, limit) if label in found.compared else []:
        values = ", ".join(
            f"{name} {value:.3g}" for name, value in zip(LAYER_COLUMNS[1:], row[1:], strict=True) if value is not None
        )
        lines.append(f"  {row[0]}: {values}")
    return "\n".join(lines)


def _first(lines: list[str], limit: int = 5) -> list[str]:
    rest = len(lines) - limit
    return lines if rest <= 1 else [*lines[:limit], f"  ... and {rest} more"]


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series of checkpoints says.

    Attributes:
        best: step of the highest score, the latest of several.
        latest: step of the last one.
        worse_since: the first step of the last uninterrupted stretch of scores more than WORSE below the best before
            it; None where the latest is not worse.
        keep: steps worth keeping: the best, the latest, and the last one before it got worse.
    """

    best: int
    latest: int
    worse_since: int | None
    keep: tuple[int, ...]


def trend(scores: Mapping[int, float]) -> Trend | None:
    """Of the scores by step; None without one."""
    if not scores:
        return None
    steps = sorted(scores)
    best = max(steps, key=lambda step: (scores[step], step))
    worse_since: int | None = None
    last_good = steps[0]
    highest = -math.inf
    for step in steps:
        if scores[step] < highest - WORSE:
            worse_since = step if worse_since is None else worse_since
        else:
            worse_since, last_good = None, step
        highest = max(highest, scores[step])
    return Trend(best, steps[-1], worse_since, tuple(sorted({best, steps[-1], last_good})))
