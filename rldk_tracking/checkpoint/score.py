"""Is a checkpoint any good, and which of a run is the best? A score in [0, 1] that is as low as its worst part.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/checkpoint/score | score in [0, 1] | checkpoint | higher
        Health of the last checkpoint.
        = its lowest part
    rldk/checkpoint/part/intact | score in [0, 1] | checkpoint | higher
        1 where every file can be read.
        = 0 with a file that cannot be read whole, else 1
    rldk/checkpoint/part/complete | score in [0, 1] | checkpoint | higher
        1 where nothing is missing.
        = 1 / (1 + n) with n files or tensors missing
    rldk/checkpoint/part/finite | score in [0, 1] | checkpoint | higher
        1 where every tensor holds numbers only.
        = 0 with a tensor that holds NaN or infinity, else 1; absent where not all was read
    rldk/checkpoint/part/similar | score in [0, 1] | checkpoint | higher
        Whether the weights point where the previous checkpoint's do.
        = cosine of all matrices (where there are none, of all weights) with the previous checkpoint's, at least 0
    rldk/checkpoint/part/balanced | score in [0, 1] | checkpoint | higher
        Whether the layers have kept their norms since the previous checkpoint.
        = smallest over layers of min(r, 1 / r), r = |W| / |W_previous|: a layer at 100 times its norm gives 0.01

The last two are of the effective weights where an adapter was saved, so that they compare with those of full training.
A part that cannot be known is left out, and without a part there is no score.

The score says whether a checkpoint can be used and fits the one before it, and nothing of how good the policy is: the
first of a run has nothing to differ from. So "best" needs a measure of the policy: the trainer's own
`metric_for_best_model`, the reward in evaluations, or the reward in training since the checkpoint before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.integrity import number_in

LOW = 0.5
"""A score below this is a warning: a layer at twice its norm, weights at 60 degrees to what they were."""
WORSE = 0.1
"""By how much a score must lie below the best one to count as worse."""
PARTS = ("intact", "complete", "finite", "similar", "balanced")


def parts(found: Scan) -> dict[str, float]:
    """The parts of the score that are known."""
    corrupt = sum(problem.kind == "corrupt" for problem in found.problems)
    lacking = sum(problem.kind == "incomplete" for problem in found.problems)
    known = {"intact": float(corrupt == 0), "complete": 1.0 / (1.0 + lacking)}
    if found.nonfinite:
        known["finite"] = 0.0
    elif found.tensors and not found.unread:
        known["finite"] = 1.0
    drift = found.drift("previous", matrices=True) or found.drift("previous")
    if drift is not None and drift.cosine is not None:
        known["similar"] = max(0.0, drift.cosine)
    ratios = list(norm_ratios(found, "previous").values())
    if ratios:
        known["balanced"] = min(min(ratio, 1.0 / ratio) if ratio > 0 else 0.0 for ratio in ratios)
    return known


def is_usable(found: Scan) -> bool:
    """Whether it was read whole, lacks nothing and holds numbers only. What was not read is not known to be usable."""
    known = parts(found)
    return known["intact"] == known["complete"] == known.get("finite") == 1.0


def score(known: dict[str, float]) -> float | None:
    """The lowest part, None without any."""
    return min(known.values(), default=None)


def verdict(found: Scan) -> Literal["healthy", "warning", "critical", "unknown"]:
    """ "critical" where it cannot be used, "warning" where something is wrong or it is far from what it was, "unknown"
    where nothing is wrong with what was read, and not every weight was."""
    known = parts(found)
    if known["intact"] == 0 or known.get("finite") == 0:
        return "critical"
    low = (score(known) or 0.0) < LOW
    if found.problems or low or found.unchanged("previous"):
        return "warning"
    return "healthy" if "finite" in known else "unknown"


def norm_ratios(found: Scan, label: str) -> dict[str, float]:
    """Layer to its norm over what it was in the other checkpoint; layers that were zero there, or that hold what
    is no number in one of the two, have none."""
    ratios = {}
    for layer in found.layers():
        drift = found.drift(label, layer)
        if drift is not None and drift.norm_ratio is not None:
            ratios[layer] = drift.norm_ratio
    return ratios


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint.

    Attributes:
        step: its step.
        by: what was measured, with its value, as it is said to people.
    """

    step: int
    by: str


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series of checkpoints says.

    Attributes:
        best: step of the best policy; None where nothing can tell.
        latest: step of the last one.
        worse_since: the first step of the last uninterrupted stretch of scores more than WORSE below the best before
            it; None where the latest is not worse.
        keep: steps worth keeping, of those that were read whole, lack nothing and hold numbers only: the best, the
            latest, and the last one before it got worse.
        by: what `best` was measured by.
    """

    best: int | None
    latest: int
    worse_since: int | None
    keep: tuple[int, ...]
    by: str | None = None


def trend(scores: Mapping[int, float], usable: Collection[int], best: Best | None = None) -> Trend | None:
    """Of checkpoints by step; None without one.

    Args:
        scores: of each.
        usable: those that can be used, see `is_usable`.
        best: the best of them, where something can tell.
    """
    if not scores:
        return None
    steps = sorted(scores)
    worse_since: int | None = None
    last_good: int | None = None
    highest = -math.inf
    for step in steps:
        if scores[step] < highest - WORSE:
            worse_since = step if worse_since is None else worse_since
        else:
            worse_since = None
            last_good = step if step in usable else last_good
        highest = max(highest, scores[step])
    can_keep = [step for step in steps if step in usable]
    wanted = {last_good, can_keep[-1] if can_keep else None, None if best is None else best.step}
    keep = tuple(step for step in can_keep if step in wanted)
    if best is None or best.step not in usable:
        return Trend(None, steps[-1], worse_since, keep)
    return Trend(best.step, steps[-1], worse_since, keep, best.by)


def best_by(name: str, values: Mapping[int, float], usable: Collection[int]) -> Best | None:
    """The usable checkpoint with the highest value, the latest of several; None where fewer than two have one."""
    measured = {step: value for step, value in values.items() if step in usable and math.isfinite(value)}
    if len(measured) < 2:
        return None
    step = max(measured, key=lambda step: (measured[step], step))
    return Best(step, f"{name} {measured[step]:.4g}")


def best_of_trainer(state: Mapping[str, object], usable: Collection[int]) -> Best | None:
    """The one that a transformers trainer holds for the best, from its state; None without an evaluation."""
    metric, step = state.get("best_metric"), state.get("best_global_step")
    if not isinstance(step, int):  # of older versions
        number = str(state.get("best_model_checkpoint") or "").rpartition("checkpoint-")[2]
        step = number_in(number)
    if step is None or step not in usable or not isinstance(metric, (int, float)) or not math.isfinite(metric):
        return None
    return Best(step, f"the trainer's best_metric {metric:.4g}")


def between_saves(rows: Sequence[tuple[int, float]], steps: Collection[int]) -> dict[int, float]:
    """Step of each checkpoint to the mean of a series since the one before; those without a row have none."""
    found: dict[int, float] = {}
    before = -1
    for step in sorted(steps):
        values = [value for at, value in rows if before < at <= step]
        if values:
            found[step] = sum(values) / len(values)
        before = step
    return found
