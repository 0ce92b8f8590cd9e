"""Judges a run row by row, the same object live and in replay, and scores it.

Scores are in [0, 1], from the alerts that fire and the conditions behind them:

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
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.detectors.trend import RunTrend
from rldk_tracking.health.rules import Rule
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


VERSION = 1


class Engine:
    """Rules over a run, in constant time and memory a step.

    Args:
        rules: see `rldk_tracking.health.presets.rules_for`.
        context: the run's settings (learning_rate, beta, num_generations, ...): quoted in advice, and the source of
            limits that depend on them.
    """

    def __init__(self, rules: Iterable[Rule], context: Mapping[str, Any] | None = None) -> None:
        settings = dict(context or {})
        self._watches = {rule.id: Watch(rule, settings) for rule in rules}
        self._scores = Scores()
        self.held_back: dict[str, str] = {}
        """Rules that would have fired while their cause did: rule id to the cause's id. The last cause stands."""
        self._silenced_by = {
            name: tuple(
                watch.rule.id
                for watch in self._watches.values()
                if watch.rule.id != name and _covers(watch.rule.silences, name)
            )
            for name in self._watches
        }
        self._order = sorted(self._watches.values(), key=lambda watch: len(self._silenced_by[watch.rule.id]))

    def update(self, step: int, row: Mapping[str, float]) -> list[Alert]:
        """Judge a row.

        Args:
            step: the trainer's global step. It may go backwards, as it does when a run resumes.
            row: `rldk/...` keys. Missing is unknown; values that are not finite are taken for missing.

        Returns:
            What changed: alerts that began to fire, became more severe, or ended.
        """
        if not all(map(math.isfinite, row.values())):
            row = {key: value for key, value in row.items() if math.isfinite(value)}
        row = self._scores.follow(row, self._watches)
        changes: list[Alert] = []
        for watch in self._order:
            watch.look(step, row)
        for watch in self._order:
            if watch.wants_to_resolve() and (was := watch.firing()) is not None:
                changes.append(watch.resolve(step, was))
        for watch in self._order:
            severity = watch.wants_to_fire(step)
            if severity is None or watch.finding is None:
                continue
            cause = self._cause(watch)
            if cause is None:
                changes.append(watch.fire(step, severity, watch.finding))
            elif watch.severity is None:
                self.held_back[watch.rule.id] = cause
        return changes

    def _cause(self, watch: Watch) -> str | None:
        """The rule that fires and whose consequence this one is."""
        causes = self._silenced_by[watch.rule.id]
        return next((cause for cause in causes if self._watches[cause].severity is not None), None)

    @property
    def firing(self) -> list[Alert]:
        """The alerts that are open, most severe first."""
        alerts = [alert for watch in self._watches.values() if (alert := watch.firing()) is not None]
        return sorted(alerts, key=lambda alert: ("critical", "warning", "info").index(alert.severity))

    @property
    def rules(self) -> list[Rule]:
        """The rules that are watched."""
        return [watch.rule for watch in self._watches.values()]

    def unknown(self) -> list[str]:
        """Ids of the rules whose data never came: nothing is known about what they watch for."""
        return [name for name, watch in self._watches.items() if not watch.known]

    def scores(self) -> dict[str, float]:
        """`rldk/health/...` as of the last row; a score without data is absent."""
        return self._scores.read(self._watches)

    @property
    def convergence(self) -> str | None:
        """One of "improving", "plateau", "solved" or "diverging"; None where it is not known."""
        return self._scores.verdict

    def state(self) -> dict[str, Any]:
        """Plain data from which `load_state` goes on as if nothing had happened."""
        return {
            "version": VERSION,
            "rules": {name: watch.state() for name, watch in self._watches.items()},
            "scores": self._scores.state(),
            "held_back": dict(self.held_back),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Rules that it does not know start afresh; rules that are gone are forgotten.

        Raises:
            ValueError: the state is of another version of this package.
        """
        if not state:
            return
        if state.get("version") != VERSION:
            raise ValueError(f"health state of version {state.get('version')!r} cannot be read, only {VERSION}.")
        for name, held in state.get("rules", {}).items():
            if name in self._watches:
                self._watches[name].load_state(held)
        self._scores.load_state(state.get("scores", {}))
        self.held_back = dict(state.get("held_back", {}))


def _covers(patterns: Iterable[str], rule: str) -> bool:
    family = rule.partition(".")[0]
    return any(pattern in ("*", rule, f"{family}.*") for pattern in patterns)
