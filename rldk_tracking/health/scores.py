"""Scores in [0, 1] with their parts, from the alerts that fire and the conditions behind them.

| key | meaning |
|---|---|
| rldk/health/score | product of the families' scores |
| rldk/health/{family} | 1 where nothing of the family fires, 0.5 with a warning, 0.1 with a critical alert |
| rldk/health/stability | 1 minus the share of recent rows (exponential mean over 20) with a jump, a spike or a NaN |
| rldk/health/convergence | 0 diverging, 0.5 plateau, 0.75 improving, 1 solved |
| rldk/health/convergence_slope, .._low, .._high | change of the reward per row (Theil-Sen) and its 95 % interval |
| rldk/health/memory_efficiency | share of the GPU memory that torch reserves which tensors use at their peak |
| rldk/health/policy_collapse_risk | mean loss of entropy, diversity, reward spread since the start; 0 where solved |
| rldk/health/reward_hacking_risk | share of the witnesses that contradict a reward that rises |

A part that no data speaks of is absent, and so is the score where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.detectors.trend import RunTrend
from rldk_tracking.health.watch import Watch

PENALTY = {"info": 1.0, "warning": 0.5, "critical": 0.1}
UNSTABLE = (
    "nan.weights", "nan.gradients", "nan.loss", "nan.reward", "kl.spike", "grad.explosion", "value.loss",
    "update.too_large", "entropy.explosion",
)  # fmt: skip
"""Rules whose breaches make a row unstable."""
CONVERGENCE = {"diverging": 0.0, "plateau": 0.5, "improving": 0.75, "solved": 1.0}
PEAK, RESERVED = "rldk/resources/gpu_memory_peak_gib", "rldk/resources/gpu_memory_reserved_gib"
ENOUGH = 20
"""Rows before stability and convergence are judged."""


class Scores(Stateful):
    """Follows a run beside its watches."""

    STATE: ClassVar[tuple[str, ...]] = ("rows", "unstable", "trend", "solved", "collapsed", "memory")

    def __init__(self) -> None:
        self.rows = 0
        self.unstable: float | None = None
        self.trend = RunTrend()
        self.solved = self.collapsed = False
        self.memory: float | None = None

    def follow(self, row: Mapping[str, float], watches: Mapping[str, Watch]) -> Mapping[str, float]:
        """Take a row, before it is judged; returns it with the scores that rules may watch."""
        known = [watches[name] for name in UNSTABLE if name in watches and watches[name].known]
        if known:
            shaken = any(watch.finding is not None and watch.finding.breached for watch in known)
            self.unstable = 0.0 if self.unstable is None else self.unstable + (shaken - self.unstable) / 10.5
            self.rows += 1
        reward = row.get("rldk/reward/mean")
        if reward is not None:
            self.trend.add(reward)
        peak, reserved = row.get(PEAK), row.get(RESERVED)
        if peak is not None and reserved:
            self.memory = min(1.0, peak / reserved)
        self.solved = _fires(watches, "reward.saturated")
        self.collapsed = _fires(watches, "reward.collapse")
        if self.unstable is not None and self.rows >= ENOUGH:
            return {**row, "rldk/health/stability": 1.0 - self.unstable}
        return row

    @property
    def verdict(self) -> str | None:
        """The convergence, in a word."""
        if self.solved:
            return "solved"
        if self.collapsed:
            return "diverging"
        return self.trend.verdict()

    def read(self, watches: Mapping[str, Watch]) -> dict[str, float]:
        """The scores that are known."""
        parts: dict[str, float] = {}
        risks: dict[str, float] = {}
        for watch in watches.values():
            if watch.known:
                penalty = 1.0 if watch.severity is None else PENALTY[watch.severity]
                if penalty < parts.get(watch.part, 2.0):
                    parts[watch.part] = penalty
                if watch.condition.risk_key is not None and watch.condition.risk is not None:
                    risks[watch.condition.risk_key] = watch.condition.risk
        parts.pop("rldk/health/health", None)
        scores = {**parts, **risks}
        if parts:
            scores["rldk/health/score"] = math.prod(parts.values())
        if self.unstable is not None and self.rows >= ENOUGH:
            scores["rldk/health/stability"] = 1.0 - self.unstable
        if self.memory is not None:
            scores["rldk/health/memory_efficiency"] = self.memory
        verdict = self.verdict
        if verdict is not None:
            scores["rldk/health/convergence"] = CONVERGENCE[verdict]
        if self.trend.slope is not None:
            low, slope, high = self.trend.slope
            scores["rldk/health/convergence_slope"] = slope
            scores["rldk/health/convergence_slope_low"] = low
            scores["rldk/health/convergence_slope_high"] = high
        return scores


def _fires(watches: Mapping[str, Watch], rule: str) -> bool:
    watch = watches.get(rule)
    return watch is not None and watch.severity is not None
