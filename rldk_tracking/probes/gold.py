"""A held-out judge of completions, to tell a reward that is earned from one that is hacked.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/reward/gold | reward | user | higher
        A held-out judge's score, which nothing is optimised for: the check on reward hacking.
        = mean over the completions that were judged
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rldk_tracking.messages.arguments import function
from rldk_tracking.probes.base import Probe, StepData, Training

GoldScore = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
KEY = "rldk/reward/gold"


class GoldProbe(Probe):
    """Logs `rldk/reward/gold`, the mean of the user's own score over a sample of the step's completions.

    The score is asked on the training thread, since it may use the GPU, as often as its own cost allows, and at the
    last step, so that the series ends where the training does.

    Args:
        gold_score_fn: `f(prompts, completions) -> scores`, one finite number each.
        max_overhead: share of the training's time that asking may take.
        samples: completions that are scored each time.

    Raises:
        TypeError: `gold_score_fn` cannot be called.
    """

    def __init__(self, gold_score_fn: GoldScore, *, max_overhead: float = 0.02, samples: int = 32) -> None:
        self.gold_score_fn = function("gold_score_fn", gold_score_fn, ["prompts", "completions"])
        self.max_overhead = max_overhead
        self.samples = samples
        self._next = 0.0

    def begin(self, training: Training) -> None:
        self._next = 0.0

    def collect(self, data: StepData) -> None:
        begin = time.monotonic()
        rollout = data.rollout
        is_due = begin >= self._next or data.is_last
        if not is_due or rollout is None or rollout.completions is None:
            return
        completions = list(rollout.completions[: self.samples])
        prompts = list((rollout.prompts or ("",) * len(completions))[: self.samples])
        try:
            scores = [float(score) for score in self.gold_score_fn(prompts, completions)]
        finally:  # one that fails costs no less
            now = time.monotonic()
            self._next = now + (now - begin) * (1 / self.max_overhead - 1)
        if len(scores) != len(completions):
            raise ValueError(f"gold_score_fn gave {len(scores)} scores for {len(completions)} completions.")
        finite = [score for score in scores if math.isfinite(score)]
        if finite:
            data.add({KEY: sum(finite) / len(finite)})
