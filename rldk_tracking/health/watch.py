"""One rule over a run, from findings to transitions: warm-up, persistence, hysteresis, cooldown and escalation."""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rldk_tracking.health.alert import SEVERITIES, Alert, Severity
from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.rule import Rule, is_core

QUIET, BREACHED, CRITICAL = 0, 1, 2
SOON = 10
"""Times the rows that end an alert, within which it is the same one however far apart rows are."""


@dataclass(eq=False)
class Watch(Stateful):
    """One rule over a run.

    `look` takes a row; then `wants_to_fire` and `wants_to_resolve` say what the rule would do, and `fire` and `resolve`
    do it. The engine decides in between, because another rule may silence this one.
    """

    rule: Rule
    context: Mapping[str, Any]
    condition: Condition = remembered()
    begin: int | None = remembered()
    samples: int = remembered(0)
    judged: bool = remembered(False)
    """Whether the rule is past its warm-up, and its condition knows what is normal."""
    recent: deque[int] = remembered(deque)
    onset: int | None = remembered()
    clears: int = remembered(0)
    severity: Severity | None = remembered()
    last_step: int | None = remembered()
    lasted: int = remembered(0)
    """Steps in which it was breached, over all returns that came soon."""
    alert: dict[str, Any] | None = remembered()
    ended: int | None = remembered()
    ended_severity: Severity | None = remembered()
    ended_samples: int = remembered(0)
    cause: str | None = remembered()
    """The rule that fires and holds this one back, as long as this one would fire too."""
    times: int = remembered(0)
    """How often it has fired in the run, or since the run went back."""
    returns: int = remembered(0)
    """How often of these it came back soon, one after the other."""
    first_fired: int | None = remembered()
    notified: Severity | None = remembered()

    def __post_init__(self) -> None:
        self.condition = self.rule.build(self.context)
        self.recent = deque(maxlen=self.rule.persistence[1])
        self.finding: Finding | None = None
        self._ahead: deque[Finding | Exception | None] = deque()
        self.part = f"rldk/health/{self.rule.family}"
        """The series of the family's score."""
        self.is_core = is_core(self.rule.family)

    @property
    def known(self) -> bool:
        """Whether the data of this rule ever came."""
        return self.samples > 0

    @property
    def has_judged(self) -> bool:
        """Whether it could have fired by now: it has judged, and has enough observations past its warm-up."""
        return self.judged and self.samples - self.rule.warm_up_samples >= self.rule.persistence[0]

    def look_ahead(self, rows: Iterable[tuple[int, Row]]) -> None:
        """Judge rows whose steps `look` takes afterwards, one by one: a condition is faster on many rows at a time."""
        judge = self.condition.judge
        self._ahead.extend(judge(step, row) for step, row in rows)

    def fails_ahead(self, error: Exception) -> None:
        """What judging ahead ended with, for `look` to raise at its row."""
        self._ahead.append(error)

    def look(self, step: int, row: Row) -> None:
        """Judge a row. A row without this rule's data changes nothing."""
        if self.begin is None:
            self.begin = step
        if self._ahead:
            found = self._ahead.popleft()
            if isinstance(found, Exception):
                raise found
            finding = self.finding = found
        else:
            finding = self.finding = self.condition.judge(step, row)
        if finding is None:
            return
        self.samples += 1
        breached, before = finding.breached, self.last_step
        self.last_step = step
        if breached or not self.judged:  # else what is warm stays warm, and nothing depends on it
            rule = self.rule
            warm = self.samples > rule.warm_up_samples and step - self.begin >= rule.warm_up_steps
            self.judged = self.judged or (warm and finding.judged)
            breached = breached and warm
        if not breached:
            self.recent.append(QUIET)
            self.clears = self.clears + 1 if finding.clear else 0
            return
        if not any(self.recent):
            self.onset = step
        self.recent.append(CRITICAL if finding.critical else BREACHED)
        self.clears = 0
        if self.severity is not None and before is not None:
            self.lasted += max(0, step - before)

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
        if self.severity is not None:
            if lasts is not None and self.lasted >= lasts:
                wanted = "critical"
            return wanted if _rank(wanted) > _rank(self.severity) else None
        if self.ended is not None and self.ended_severity is not None:
            cooling = 0 <= step - self.ended < self.rule.cooldown_steps
            if cooling and _rank(wanted) <= _rank(self.ended_severity):
                return None
        return wanted

    @property
    def is_clear(self) -> bool:
        """Whether the condition has been clear for as long as ends an alert: twice as long with each quick return."""
        needed = self.rule.clear_after
        if self.severity is not None:
            longest = max(self.rule.reopen_steps, SOON * needed)
            needed = min(needed * 2 ** min(self.returns, 16), longest)
        return self.clears >= needed

    def wants_to_resolve(self) -> bool:
        """Whether the rule fires and its condition has been clear for long enough."""
        return self.severity is not None and self.is_clear

    def fire(self, step: int, severity: Severity, finding: Finding) -> Alert:
        """Begin to fire, or escalate, on a finding."""
        first = min(step, step if self.onset is None else self.onset)
        if self.severity is None:
            self._count(step, first)
        was = self.firing()
        consequences = () if was is None else was.consequences
        notify = self.notified is None or _rank(severity) > _rank(self.notified)
        if notify:
            self.notified = severity
        self.severity = severity
        evidence = dict(finding.evidence or {}) | ({} if finding.now is None else {"now": finding.now})
        alert = Alert(
            rule=self.rule.id,
            severity=severity,
            state="firing",
            step=step,
            first_step=first,
            value=finding.value,
            threshold=finding.threshold,
            message=self._sentence(step, first, finding, consequences),
            advice=advice(self.rule, self.context),
            evidence=evidence,
            key=finding.key,
            consequences=consequences,
            times=self.times,
            notify=notify,
        )
        self.alert = alert.as_dict()
        return alert

    def _count(self, step: int, first: int) -> None:
        """An alert opens: the first of the run, or once more; soon after its end, in steps or in rows of its own, or
        as if there had been none."""
        within, rows = self.rule.reopen_steps, self.samples - self.ended_samples
        if self.ended is None or step < self.ended or within == 0:
            self.times, self.first_fired, self.notified = 0, first, None
        is_soon = self.times > 0 and (step - (self.ended or 0) < within or rows < SOON * self.rule.clear_after)
        self.returns = self.returns + 1 if is_soon else 0
        self.lasted = self.lasted if is_soon else 0
        self.times += 1

    def _sentence(self, step: int, first: int, finding: Finding, consequences: tuple[str, ...]) -> str:
        parts = [sentence(self.rule.message, step, first, finding)]
        if self.times > 1:
            parts.append(f"It has fired {self.times} times since step {self.first_fired}.")
        if self.lasted > 0:
            parts.append(f"It has lasted {self.lasted} steps{' in all' if self.returns > 0 else ''}.")
        if consequences:
            parts.append(f"With it: {', '.join(consequences)}.")
        return " ".join(parts)

    def add_consequence(self, rule: str) -> Alert | None:
        """Name a rule that the open alert holds back. Returns the alert anew; None where the rule is named already."""
        was = self.firing()
        if was is None or rule in was.consequences:
            return None
        message = f"{was.message[:-1]}, {rule}." if was.consequences else f"{was.message} With it: {rule}."
        alert = replace(was, message=message, consequences=(*was.consequences, rule))
        self.alert = alert.as_dict()
        return replace(alert, notify=False)

    def resolve(self, step: int, was: Alert, how: str | None = None) -> Alert:
        """End the alert that is open, because it is over or as `how` says."""
        value = None if self.finding is None else self.finding.value
        self.ended, self.ended_severity, self.ended_samples = step, self.severity, self.samples
        self.severity = self.alert = self.onset = None
        self.recent.clear()
        over = how or f"Over after {max(0, step - was.first_step)} steps."
        if how is None and was.notify and self.rule.reopen_steps > 0:
            over += " Should it come back, that is counted, and told only where it is worse."
        message = f"{over} It was: {was.message}"
        return replace(was, state="resolved", step=step, value=value, message=message, advice="")

    def firing(self) -> Alert | None:
        """The alert that is open."""
        return None if self.alert is None else Alert(**self.alert)


def advice(rule: Rule, context: Mapping[str, Any]) -> str:
    """The rule's advice, after the run's own settings that it is about."""
    known = [f"{name} {_short(context[name])}" for name in rule.quotes if context.get(name) is not None]
    text = " ".join(rule.advice.splitlines())
    return f"(configured: {', '.join(known)}) {text}" if known else text


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:80]


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


class _Words(string.Formatter):
    """Fills plain fields; a number that is not known reads "unknown"."""

    def get_value(self, key: int | str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        return kwargs.get(str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "unknown"
        return str(value) if isinstance(value, str) else format(value, format_spec)


def sentence(template: str, step: int, first: int, finding: Finding) -> str:
    """A rule's message with the numbers in it. Where the judged value is a mean, this row's own is quoted too."""
    fields: dict[str, Any] = {name.replace(" ", "_"): value for name, value in (finding.evidence or {}).items()}
    fields |= {"value": finding.value, "threshold": finding.threshold, "key": finding.key}
    fields |= {"step": step, "first_step": first, "now": finding.now}
    text = _Words().vformat(template, (), fields)
    form = next((form for _, name, form, _ in string.Formatter().parse(template) if name == "value"), None)
    if finding.averaged_rows > 1.0 and finding.now is not None and form is not None:
        text += f" That is a mean over {finding.averaged_rows:.0f} rows; step {step} alone has {finding.now:{form}}."
    return text
