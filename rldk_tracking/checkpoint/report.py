"""What a scan says, as series, as a table of layers and as text.

A number of all weights, or of a layer, is left out where one of its elements is not finite.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/checkpoint/corrupt | files | checkpoint | lower | max over ranks
        Files that cannot be read whole.
        = count
    rldk/checkpoint/incomplete | problems | checkpoint | lower | max over ranks
        What the checkpoint lacks: shards, tensors, the state that a resume needs.
        = count
    rldk/checkpoint/nonfinite | tensors | checkpoint | lower | max over ranks
        Saved tensors that hold a NaN or an infinity.
        = count
    rldk/checkpoint/unchanged | 1 | checkpoint | lower
        1 where nothing differs from the previous checkpoint.
        = all elements compared, as they are stored
    rldk/checkpoint/still_layers | layers | checkpoint | max over ranks
        Layers that are as they were in the previous checkpoint while others have moved; frozen ones too.
        = count
    rldk/checkpoint/changed_tensors | tensors | checkpoint | lower | max over ranks
        Tensors whose shape or type is another than in the previous checkpoint.
        = count
    rldk/checkpoint/drift | 1 | checkpoint
        How far the weights have moved since the first checkpoint. With LoRA these are the effective weights, and like
        all distances it is absent where the base model is not known or an element is not finite.
        = |W - W_first| / |W_first|; LoRA: W = W_base + scale B A of the adapted modules
    rldk/checkpoint/drift_previous | 1 | checkpoint
        How far the weights have moved since the previous checkpoint; 0 where nothing was learnt.
        = |W - W_previous| / |W_previous|, W as for drift
    rldk/checkpoint/drift_reference | 1 | checkpoint
        How far the weights are from the reference model's.
        = |W - W_reference| / |W_reference|, W as for drift
    rldk/checkpoint/cosine_previous | 1 | checkpoint | higher
        Near 1 the weights point where they pointed before.
        = cosine of all weights with the previous checkpoint's, W as for drift
    rldk/checkpoint/layer_drift/{p10,p50,p90} | 1 | checkpoint
        How far a layer has moved since the previous checkpoint.
        = {stat} over layers without NaN, W as for drift
    rldk/checkpoint/layer_norm_ratio_{max,min} | 1 | checkpoint
        How much a layer has grown since the previous checkpoint.
        = {stat} over layers without NaN of |W| / |W_previous|, W as for drift
    rldk/checkpoint/stable_rank/{p10,p50,p90} | 1 | checkpoint
        How many directions a weight matrix spreads over. Only at the level "full".
        = {stat} over matrices without NaN, as they are stored, of |W|_F^2 / |W|_2^2
    rldk/checkpoint/norm | 1 | checkpoint
        Size of the saved tensors, of a LoRA adapter its two matrices; absent where one holds NaN or an infinity.
        = Euclidean norm
    rldk/checkpoint/zero_fraction | 1 | checkpoint
        Share of the saved weights that are 0.
        = elements that are exactly 0 / elements, as they are stored
    rldk/checkpoint/scan_seconds | s | checkpoint | lower | max over ranks
        Time that reading took.
        = wall time
    rldk/checkpoint/size_gib | GiB | checkpoint | max over ranks
        Size on disk.
        = sum over files
    rldk/checkpoint/adapter_norm | 1 | checkpoint
        Size of what a LoRA adapter adds to the weights.
        = |scale B A|_F over all adapted modules
    rldk/checkpoint/adapter_ratio | 1 | checkpoint
        The same against the weights that it is added to, where the base model was loaded from this disk.
        = |scale B A|_F / |W|_F
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rldk_tracking.checkpoint import score
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.statistics import TensorStatistics
from rldk_tracking.messages.arguments import printable
from rldk_tracking.metrics.statistics import spread

GIB = float(1 << 30)
LAYER_COLUMNS = ("layer", "norm", "largest", "zeros", "not finite", "drift", "cosine", "norm ratio")


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
        row["rldk/checkpoint/norm"] = _norm(list(found.tensors.values()))
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
    unchanged, stored = found.unchanged("previous"), found.stored("previous")
    if "previous" in found.compared:
        row["rldk/checkpoint/changed_tensors"] = float(kinds.count("changed"))
    if unchanged is not None and not (unchanged and stored is not None and stored.skipped):
        row["rldk/checkpoint/unchanged"] = float(unchanged)
    if unchanged is False:
        layers = [found.stored("previous", layer) for layer in found.layers()]
        row["rldk/checkpoint/still_layers"] = float(sum(drift.same for drift in layers if drift is not None))
    previous = found.drift("previous")
    if previous is None:
        return row
    row["rldk/checkpoint/cosine_previous"] = previous.cosine
    drifts = [found.drift("previous", layer) for layer in found.layers()]
    relative = [drift.relative for drift in drifts if drift is not None]
    row |= spread("rldk/checkpoint/layer_drift", [value for value in relative if value is not None], extremes=False)
    ratios = score.norm_ratios(found, "previous").values()
    if ratios:
        row["rldk/checkpoint/layer_norm_ratio_max"] = max(ratios)
        row["rldk/checkpoint/layer_norm_ratio_min"] = min(ratios)
    return row


def _norm(tensors: Sequence[TensorStatistics]) -> float | None:
    """Of several tensors as one; None where an element is not finite."""
    norms = [t.norm for t in tensors if t.norm is not None and t.finite]
    return math.sqrt(sum(norm**2 for norm in norms)) if len(norms) == len(tensors) else None


def layer_rows(found: Scan, label: str = "previous", limit: int | None = None) -> list[list[str | float | None]]:
    """One row for each layer under LAYER_COLUMNS, the worst first: not finite, then norm furthest from what it was,
    then drift. Drift, cosine and norm ratio are of the effective weights, the others of what is stored."""
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
                _norm(tensors),
                max(t.largest or 0.0 for t in tensors) if all(t.finite for t in tensors) else None,
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
    lines += [f"  {line}" for other in found.compared for line in _away(found, other)]
    if found.unknown is not None:
        lines.append(f"  how far the adapted weights have moved is not known: {found.unknown}")
    if found.unread:
        types = ", ".join(sorted({found.entries[name].dtype for name in found.unread}))
        lines.append(f"  not read: {len(found.unread)} tensors of the types {types}")
    elif not found.tensors:
        lines.append("  not read: the weights themselves (the level is light, or none is a floating number)")
    for kind in ("corrupt", "incomplete", "changed", "disk"):
        lines += _first([f"  {kind}: {problem.message}" for problem in found.problems if problem.kind == kind])
    lines += _first([f"  not finite: {name}" for name in found.nonfinite])
    for row in layer_rows(found, label, limit) if label in found.compared else []:
        values = ", ".join(
            f"{name} {value:.3g}" for name, value in zip(LAYER_COLUMNS[1:], row[1:], strict=True) if value is not None
        )
        lines.append(f"  {row[0]}: {values}")
    return "\n".join(map(printable, lines))


def _away(found: Scan, other: str) -> list[str]:
    """How far a checkpoint is from another one."""
    lines = []
    drift, stored, unchanged = found.drift(other), found.stored(other), found.unchanged(other)
    if drift is not None and drift.relative is not None:
        angle = "" if drift.cosine is None else f", cosine {drift.cosine:.6f}"
        lines.append(f"{drift.relative:.3g} of its norm away from {other}{angle}")
    if drift is not None and drift.skipped:
        lines.append(f"no distance from {other}: {drift.skipped} elements are not finite here or there")
    if unchanged:
        learnt = ": nothing was learnt in between" if stored is None or not stored.skipped else ""
        lines.append(f"every tensor is that of {other}{learnt}")
    if drift is None and unchanged is None and found.unknown is None and found.tensors:
        lines.append(f"no tensor in common with {other}: nothing is compared")
    return lines


def _first(lines: list[str], limit: int = 5) -> list[str]:
    rest = len(lines) - limit
    return lines if rest <= 1 else [*lines[:limit], f"  ... and {rest} more"]
