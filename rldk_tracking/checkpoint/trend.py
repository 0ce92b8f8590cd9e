"""What several checkpoints of a run say together: since when they got worse, which can be used, which is the best.

The score of a checkpoint says whether it can be used and fits the one before, and nothing of how good the policy is:
the first of a run has nothing to differ from. So "best" needs a measure of the policy: the trainer's own
`metric_for_best_model`, the reward in evaluations, or the reward in training since the checkpoint before.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

WORSE = 0.1
"""By how much a score must lie below the best one to count as worse."""


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
        usable: those that can be used, see `score.is_usable`.
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
        step = int(number) if number.isascii() and number.isdigit() and len(number) < 18 else None
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
