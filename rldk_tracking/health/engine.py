"""Judges a run row by row: the same object live and in replay.

A `Watch` is one rule, from findings to transitions: warm-up, persistence, hysteresis, cooldown and escalation. The
`Engine` decides between rules.
"""

from __future__ import annotations

import math
import string
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import SEVERITIES, Alert, AlertState, Severity
from rldk_tracking.health.conditions.base import Finding, Row
from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.failures import Failures
from rldk_tracking.health.rules import Rule
from rldk_tracking.health.scores import Scores

QUIET, BREACHED, CRITICAL = 0, 1, 2


class Watch(Stateful):
    """One rule over a run.

    `look` takes a row; then `wants_to_fire` and `wants_to_resolve` say what the rule would do, and `fire` and `resolve`
    do it. The engine decides in between, because another rule may silence this one.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        "condition", "begin", "samples", "recent", "onset", "clears", "severity", "since", "alert", "ended",
        "ended_severity",
    )  # fmt: skip

    def __init__(self, rule: Rule, context: Mapping[str, Any]) -> None:
        self.rule = rule
        self.context = context
        self.condition = rule.build(context)
        self.begin: int | None = None
        self.samples = 0
        self.recent: deque[int] = deque(maxlen=rule.persistence[1])
        self.onset: int | None = None
        self.clears = 0
        self.severity: Severity | None = None
        self.since: int | None = None
        self.alert: dict[str, Any] | None = None
        self.ended: int | None = None
        self.ended_severity: Severity | None = None
        self.finding: Finding | None = None
        self.part = f"rldk/health/{rule.family}"
        """The series of the family's score."""

    @property
    def known(self) -> bool:
        """Whether the data of this rule ever came."""
        return self.samples > 0

    def look(self, step: int, row: Row) -> None:
        """Judge a row. A row without this rule's data changes nothing."""
        if self.begin is None:
            self.begin = step
        finding = self.finding = self.condition.judge(step, row)
        if finding is None:
            return
        self.samples += 1
        warm = self.samples > self.rule.warm_up_samples and step - self.begin >= self.rule.warm_up_steps
        breached = finding.breached and warm
        if breached and not any(self.recent):
            self.onset = step
        self.recent.append((CRITICAL if finding.critical else BREACHED) if breached else QUIET)
        self.clears = self.clears + 1 if finding.clear and not breached else 0

    def wants_to_fire(self, step: int) -> Severity | None:
        """The severity with which the rule would begin to fire or escalate now; None where it would not."""
        if self.finding is None or not self.finding.breached:
            return None
        k, _ = self.rule.persistence
        if sum(level >= BREACHED for level in self.recent) < k:
            return None
        wanted: Severity = self.rule.severity
        if sum(level >= CRITICAL for level in self.recent) >= k:
            wanted = "critical"
        lasts = self.rule.critical_after
        if self.since is not None and lasts is not None and step - self.since >= lasts:
            wanted = "critical"
        if self.severity is not None:
            return wanted if _rank(wanted) > _rank(self.severity) else None
        if self.ended is not None and self.ended_severity is not None:
            cooling = 0 <= step - self.ended < self.rule.cooldown_steps
            if cooling and _rank(wanted) <= _rank(self.ended_severity):
                return None
        return wanted

    def wants_to_resolve(self) -> bool:
        """Whether the rule fires and its condition has been clear for long enough."""
        return self.severity is not None and self.clears >= self.rule.clear_after

    def fire(self, step: int, severity: Severity, finding: Finding) -> Alert:
        """Begin to fire, or escalate, on a finding."""
        self.severity = severity
        if self.since is None:
            self.since = step
        first = step if self.onset is None else self.onset
        alert = Alert(
            rule=self.rule.id,
            severity=severity,
            state="firing",
            step=step,
            first_step=min(first, step),
            value=finding.value,
            threshold=finding.threshold,
            message=_sentence(self.rule.message, step, first, finding),
            advice=advice(self.rule, self.context),
            evidence=dict(finding.evidence or {}),
            key=finding.key,
        )
        self.alert = alert.as_dict()
        return alert

    def resolve(self, step: int, was: Alert, how: str | None = None) -> Alert:
        """End the alert that is open, because it is over or as `how` says."""
        value = None if self.finding is None else self.finding.value
        self.ended, self.ended_severity = step, self.severity
        self.severity = self.since = self.alert = self.onset = None
        self.recent.clear()
        how = how or f"Over after {max(0, step - was.first_step)} steps."
        return _ended(was, step, value, f"{how} It was: {was.message}")

    def firing(self) -> Alert | None:
        """The alert that is open."""
        return None if self.alert is None else Alert(**self.alert)


def advice(rule: Rule, context: Mapping[str, Any]) -> str:
    """The rule's advice, after the run's own settings that it is about."""
    known = [f"{name} {_short(context[name])}" for name in rule.quotes if context.get(name) is not None]
    return f"({', '.join(known)}) {rule.advice}" if known else rule.advice


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:80]


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


def _ended(was: Alert, step: int, value: float | None, message: str) -> Alert:
    state: AlertState = "resolved"
    return Alert(
        was.rule, was.severity, state, step, was.first_step, value, was.threshold, message, "", was.evidence, was.key
    )


class _Words(string.Formatter):
    """Fills plain fields; a number that is not known reads "unknown"."""

    def get_value(self, key: int | str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "unknown"
        return str(value) if isinstance(value, str) else format(value, format_spec)


def _sentence(template: str, step: int, first: int, finding: Finding) -> str:
    fields: dict[str, Any] = {name.replace(" ", "_"): value for name, value in (finding.evidence or {}).items()}
    fields |= {"value": finding.value, "threshold": finding.threshold, "key": finding.key}
    fields |= {"step": step, "first_step": first}
    return _Words().vformat(template, (), fields)


VERSION = 1


class Engine:
    """Rules over a run, in constant time and memory a step.

    Args:
        rules: see `rldk_tracking.health.presets.rules_for`.
        context: the run's settings (learning_rate, beta, num_generations, ...): quoted in advice, and the source of
            limits that depend on them.
        strict: let exceptions of rules out, for development and tests.
    """

    def __init__(
        self, rules: Iterable[Rule], context: Mapping[str, Any] | None = None, *, strict: bool = False
    ) -> None:
        settings = dict(context or {})
        self._failures = Failures(strict)
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
        self._working = dict(self._watches)
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
        row = self._scores.follow(row, self._working)
        changes: list[Alert] = []
        self._each(step, lambda watch: watch.look(step, row), changes)
        self._each(step, lambda watch: self._resolve(step, watch, changes), changes)
        self._each(step, lambda watch: self._fire(step, watch, changes), changes)
        return changes

    def _each(self, step: int, work: Callable[[Watch], object], changes: list[Alert]) -> None:
        """Do the work for every rule; one that raises costs that rule alone."""
        for watch in self._failures.each(step, self._order, work, changes):
            del self._working[watch.rule.id]
            self._order.remove(watch)

    def _resolve(self, step: int, watch: Watch, changes: list[Alert]) -> None:
        if watch.wants_to_resolve() and (was := watch.firing()) is not None:
            changes.append(watch.resolve(step, was))

    def _fire(self, step: int, watch: Watch, changes: list[Alert]) -> None:
        severity = watch.wants_to_fire(step)
        if severity is None or watch.finding is None:
            return
        cause = self._cause(watch)
        if cause is None:
            changes.append(watch.fire(step, severity, watch.finding))
        elif watch.severity is None:
            self.held_back[watch.rule.id] = cause

    def _cause(self, watch: Watch) -> str | None:
        """The rule that fires and whose consequence this one is."""
        causes = self._silenced_by[watch.rule.id]
        return next((cause for cause in causes if self._watches[cause].severity is not None), None)

    @property
    def firing(self) -> list[Alert]:
        """The alerts that are open, most severe first."""
        alerts = [alert for watch in self._working.values() if (alert := watch.firing()) is not None]
        if self._failures.alert is not None:
            alerts.append(self._failures.alert)
        return sorted(alerts, key=lambda alert: ("critical", "warning", "info").index(alert.severity))

    @property
    def failed(self) -> Mapping[str, str]:
        """Rules that raised and are switched off since, with the cause. They are not quiet: they know nothing."""
        return self._failures.causes

    @property
    def rules(self) -> list[Rule]:
        """The rules that are watched."""
        return [watch.rule for watch in self._watches.values()]

    def unknown(self) -> list[str]:
        """Ids of the rules whose data never came: nothing is known about what they watch for."""
        return [name for name, watch in self._watches.items() if not watch.known]

    def scores(self) -> dict[str, float]:
        """`rldk/health/...` as of the last row; a score without data is absent."""
        return self._scores.read(self._working)

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
            "failure": self._failures.state(),
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
        self._failures.load_state(state.get("failure", {}))


def _covers(patterns: Iterable[str], rule: str) -> bool:
    family = rule.partition(".")[0]
    return any(pattern in ("*", rule, f"{family}.*") for pattern in patterns)
