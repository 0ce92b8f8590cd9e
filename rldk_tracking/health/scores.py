"""How a run comes along, in numbers of [0, 1].

A part that no rule has judged is absent, and so is the score where nothing is known.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/health/score | score in [0, 1] | rules | higher
        The run's health: first by the worst severity, then by how many families of rules have it.
        = of c families at 0.1 and w at 0.5: 0.1 / (c + w / (w + 1)) where c > 0, else 0.1 + 0.4 / w where w > 0, else
        1; the family `health` does not count
    rldk/health/spike_free_fraction | score in [0, 1] | rules | higher
        Share of the recent rows without a jump, a spike or a NaN; absent for the first 20 rows.
        = 1 - exponential mean over 20 rows (weight 2/21, from 0 in the first row) of whether one of nan.*, kl.spike,
        grad.explosion, value.loss, update.too_large and entropy.explosion was breached in the row before
    rldk/health/stability | score in [0, 1] | rules | higher
        How steadily training goes; absent for the first 20 rows.
        = the smaller of spike_free_fraction and 1 / (1 + (v / 2)^2), v being, of KL to the reference, gradient norm and
        loss, the middle one (of two the smaller, of one none) of median |x - x before| over 20 rows / median |x| over
        48 rows; v of pure noise around 0 is 1.4
    rldk/health/convergence | score in [0, 1] | rules
        How the reward comes along, in preference training rldk/preference/margin: 0 diverging, 0.5 plateau, 0.75
        improving, 1 solved.
        = 1 while reward.saturated fires; 0 while nan.weights, nan.loss, reward.collapse or policy.collapse fires or is
        held back by its cause; else by the blocks of convergence_slope, their Mann-Kendall score S and the change C =
        slope x steps / W: from 32 rows on 0 where S < -3.3 and C < -0.6, and where the mean of the last quarter of the
        blocks is below the best of such quarters by more than 3 W and 1/4 of what these differ by, and less than that
        1/4 above the lowest since; then 0.75 where S > 2.6 and C > 0.6, else 0.5. W is the noise of single rows, of
        values that repeat the first alone: mean |x - 2 x' + x''| x 1.2533 / sqrt(6), or up to three times as much where
        values eight apart differ by more: half their variance, at most 5 such deviations each
    rldk/health/policy_collapse_risk | score in [0, 1] | rules | lower
        Signs that the policy has become deterministic without having solved the task.
        = mean over entropy, diversity and reward spread of (1 - left) / 0.9 within [0, 1], left being the exponential
        mean over 3 rows as a share of the median of the first 5; 0 for a reward that climbed and is at its best
    rldk/health/reward_hacking_risk | score in [0, 1] | rules | lower
        Signs that the reward rises for the wrong reason; absent without a second signal.
        = (1 where a held-out score has not followed, else 0.4 for each of perplexity, length and disagreement of the
        reward functions that contradicts, and for a part of the reward that is 0 throughout or fell, and with one of
        them 0.2 for each of KL, a length that shrank and diversity, at most 1) x (rise of the reward in standard
        deviations / 2 within [0, 1]); see `explain reward.hacking`
    rldk/health/convergence_slope | reward/step | rules
        How fast the reward moves, in preference training rldk/preference/margin.
        = median of the slopes of all pairs (Theil-Sen) of at most 32 blocks of equally many rows, each the means of its
        steps and rewards; of preference training without a reward, the margin
    rldk/health/convergence_slope_low | reward/step | rules
        Lower end of the slope's interval, rows taken for independent.
        = slope of rank (N - C) / 2 of N, C = 1.96 sqrt(n (n - 1) (2n + 5) / 18) for n blocks (Sen 1968, 95 %)
    rldk/health/convergence_slope_high | reward/step | rules
        Upper end of the slope's interval, rows taken for independent.
        = slope of rank (N + C) / 2 + 1 of N, C = 1.96 sqrt(n (n - 1) (2n + 5) / 18) for n blocks (Sen 1968, 95 %)
    rldk/health/<family> | score in [0, 1] | rules | higher
        Health in one family of rules (nan, kl, reward, ...); absent until one of its rules has judged.
        = lowest over its rules of 0.1 for critical, 0.5 for warning, else 1; a rule that its cause holds back has the
        severity of the cause
    rldk/health/memory_efficiency | score in [0, 1] | rules | higher
        Use that is made of the GPU memory that torch reserves.
        = gpu_memory_peak_gib / gpu_memory_reserved_gib, at most 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rldk_tracking.health.alert import SEVERITIES, Severity
from rldk_tracking.health.conditions.base import REWARD_MEAN
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import Baseline
from rldk_tracking.health.detectors.trend import RunTrend

if TYPE_CHECKING:
    from rldk_tracking.health.watch import Watch

PENALTY: dict[Severity, float] = {"info": 1.0, "warning": 0.5, "critical": 0.1}
UNSTABLE = (
    "nan.weights", "nan.gradients", "nan.loss", "nan.reward", "kl.spike", "grad.explosion", "value.loss",
    "update.too_large", "entropy.explosion",
)  # fmt: skip
"""Rules whose breaches make a row unstable."""
DEAD = ("nan.weights", "nan.loss", "reward.collapse", "policy.collapse")
"""Rules of which one that fires, or is held back, makes a run diverging."""
CONVERGENCE = {"diverging": 0.0, "plateau": 0.5, "improving": 0.75, "solved": 1.0}
PEAK, RESERVED = "rldk/resources/gpu_memory_peak_gib", "rldk/resources/gpu_memory_reserved_gib"
STABILITY, SPIKE_FREE = "rldk/health/stability", "rldk/health/spike_free_fraction"
MARGIN = "rldk/preference/margin"
"""What preference training gains, where there is no reward."""
ENOUGH = 20
"""Rows before stability is judged, and that it looks back."""
VARYING = (("rldk/kl/ref_k1", "rldk/kl/ref_k3"), ("rldk/grad/norm",), ("rldk/train/loss",))
"""Series whose variation tells how steadily a run goes, each with its substitutes."""


@dataclass(eq=False)
class Variation(Stateful):
    """By how much a series changes from one row to the next, in units of its size: medians, so no single spike counts.

    Median of |x - x before| over the last 20 rows / median of |x| over the last 48. While that is 0 there is no unit.
    """

    keys: tuple[str, ...]
    key: str | None = remembered()
    changes: Baseline = remembered(lambda: Baseline(ENOUGH, delay=0))
    sizes: Baseline = remembered(lambda: Baseline(48, delay=0))
    last: float | None = remembered()

    def add(self, row: Mapping[str, float]) -> None:
        """Take the row's value."""
        if self.key is None:
            self.key = next((key for key in self.keys if key in row), None)
        value = None if self.key is None else row.get(self.key)
        if value is None:
            return
        self.sizes.add(abs(value))
        if self.last is not None:
            self.changes.add(abs(value - self.last))
        self.last = value

    @property
    def size(self) -> float | None:
        """The variation; None before there are rows enough, and without a unit."""
        if len(self.changes) < ENOUGH or self.sizes.median == 0.0:
            return None
        return self.changes.median / self.sizes.median


@dataclass(eq=False)
class Scores(Stateful):
    """Follows a run beside its watches."""

    rows: int = remembered(0)
    unstable: float | None = remembered()
    varying: dict[str, Variation] = remembered(lambda: {keys[0]: Variation(keys) for keys in VARYING})
    gain_key: str | None = remembered()
    trend: RunTrend = remembered(RunTrend)
    memory: float | None = remembered()

    def follow(
        self, step: int, row: Mapping[str, float], watches: Mapping[str, Watch], with_stability: bool = True
    ) -> Mapping[str, float]:
        """Take a row, before it is judged; returns it with the scores that rules may watch."""
        known = [watches[name] for name in UNSTABLE if name in watches and watches[name].known]
        if known:
            shaken = any(watch.finding is not None and watch.finding.breached for watch in known)
            change = 0.0 if self.unstable is None else 2.0 / (ENOUGH + 1.0) * (shaken - self.unstable)
            self.unstable = (self.unstable or 0.0) + change
            self.rows += 1
        for variation in self.varying.values():
            variation.add(row)
        self.gain_key = self.gain_key or next((key for key in (REWARD_MEAN, MARGIN) if key in row), None)
        if self.gain_key is not None and self.gain_key in row:
            self.trend.add(step, row[self.gain_key])
        peak, reserved = row.get(PEAK), row.get(RESERVED)
        if peak is not None and reserved:
            self.memory = min(1.0, peak / reserved)
        return {**row, **self._steadiness(with_stability)}

    def _steadiness(self, with_stability: bool = True) -> dict[str, float]:
        """How steadily the run goes; empty before there are rows enough."""
        if self.unstable is None or self.rows < ENOUGH:
            return {}
        spike_free = stability = 1.0 - self.unstable
        if not with_stability:
            return {SPIKE_FREE: spike_free}
        varying = sorted(size for v in self.varying.values() if (size := v.size) is not None)
        if len(varying) >= 2:  # one series alone may have a mean of about 0, as losses of RL do
            middle = varying[1] if len(varying) == 3 else varying[0]
            stability = min(spike_free, 1.0 / (1.0 + (middle / 2.0) ** 2))
        return {SPIKE_FREE: spike_free, STABILITY: stability}

    def verdict(self, watches: Mapping[str, Watch]) -> str | None:
        """The convergence, in a word."""
        saturated = watches.get("reward.saturated")
        if saturated is not None and saturated.severity is not None:
            return "solved"
        if any(severity_of(watches, name) is not None for name in DEAD):
            return "diverging"
        return self.trend.verdict()

    def read(self, watches: Mapping[str, Watch]) -> dict[str, float]:
        """The scores that are known."""
        parts: dict[str, float] = {}
        risks: dict[str, float] = {}
        for name, watch in watches.items():
            if watch.judged:
                severity = severity_of(watches, name)
                penalty = 1.0 if severity is None else PENALTY[severity]
                parts[watch.part] = min(penalty, parts.get(watch.part, 1.0))
            if watch.condition.risk_key is not None and watch.condition.risk is not None:
                risks[watch.condition.risk_key] = watch.condition.risk
        parts.pop("rldk/health/health", None)
        scores = {**parts, **risks, **self._steadiness()}
        if parts:
            scores["rldk/health/score"] = score(list(parts.values()))
        verdict = self.verdict(watches)
        if self.memory is not None:
            scores["rldk/health/memory_efficiency"] = self.memory
        if verdict is not None:
            scores["rldk/health/convergence"] = CONVERGENCE[verdict]
        if self.trend.slope is not None:
            low, slope, high = self.trend.slope
            scores["rldk/health/convergence_slope"] = slope
            scores["rldk/health/convergence_slope_low"] = low
            scores["rldk/health/convergence_slope_high"] = high
        return scores


def score(parts: list[float]) -> float:
    """The run's score from those of its families: first by the worst severity, then by how many families it has.

    With c families of a critical and w of a warning alert: 0.1 / (c + w / (w + 1)), or 0.1 + 0.4 / w without a
    critical one, or 1. So every run without a critical alert is above every run with one.
    """
    critical, warning = parts.count(PENALTY["critical"]), parts.count(PENALTY["warning"])
    if critical:
        return 0.1 / (critical + warning / (warning + 1))
    return 0.1 + 0.4 / warning if warning else 1.0


def severity_of(watches: Mapping[str, Watch], rule: str) -> Severity | None:
    """That of the rule's open alert, or of the cause's by which it is held back."""
    watch = watches.get(rule)
    cause = None if watch is None or watch.cause is None else watches.get(watch.cause)
    found = [each.severity for each in (watch, cause) if each is not None and each.severity is not None]
    return max(found, key=SEVERITIES.index) if found else None
