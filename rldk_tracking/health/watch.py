"""From findings to transitions: warm-up, persistence, hysteresis, cooldown and escalation of one rule."""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import SEVERITIES, Alert, AlertState, Severity
from rldk_tracking.health.conditions.base import Finding, Row
from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.rules import Rule

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

    def resolve(self, step: int, was: Alert) -> Alert:
        """End the alert that is open."""
        value = None if self.finding is None else self.finding.value
        self.ended, self.ended_severity = step, self.severity
        self.severity = self.since = self.alert = self.onset = None
        self.recent.clear()
        message = f"Over after {max(0, step - was.first_step)} steps. It was: {was.message}"
        return _ended(was, step, value, message)

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
