"""The one value that a rule produces, and that every tracker and notifier receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]
AlertState = Literal["firing", "resolved"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule began to fire, became more severe, or ended.

    Attributes:
        rule: id `<family>.<problem>`, a row of the rule catalogue or a user's own.
        severity: "info", "warning" or "critical".
        state: "firing" or "resolved".
        step: the trainer's global step at which this was decided.
        first_step: the step at which the condition was first seen (not that at which it was believed).
        value: the observed number, None where the rule judges several.
        threshold: the limit that it was held to, in the unit of `value`.
        message: one sentence in plain words, with the numbers in it.
        advice: what to try first.
        evidence: further numbers that the verdict rests on.
        key: the series to look at.
        consequences: rules that would fire too and are held back, because this one is their cause.
        times: how often the rule has fired in the run; always 1 where `Rule.reopen_steps` is 0.
        notify: whether people are to be sent it. False for a repeat that is no more severe than what they were sent,
            and for an alert that is given again with more consequences.

    Examples:
        >>> from rldk_tracking import Alert
        >>> alert = Alert("kl.high", "warning", "firing", 12, 10, 0.3, 0.2, "KL is 0.3, above 0.2.", "Raise beta.")
        >>> alert.title
        'rldk warning: kl.high'
    """

    rule: str
    severity: Severity
    state: AlertState
    step: int
    first_step: int
    value: float | None
    threshold: float | None
    message: str
    advice: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    key: str | None = None
    consequences: tuple[str, ...] = ()
    times: int = 1
    notify: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "consequences", tuple(self.consequences))  # JSON has lists only

    @property
    def title(self) -> str:
        """At most 64 characters, the limit of W&B alert titles: `rldk critical: nan.weights`."""
        word = "resolved" if self.state == "resolved" else self.severity
        return f"rldk {word}: {self.rule}"[:64]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self) | {"evidence": dict(self.evidence), "consequences": list(self.consequences)}


def add_alert(alerts: list[Alert], alert: Alert) -> None:
    """Add a transition; one that is there already, with fewer consequences, makes way for it."""
    for place in range(len(alerts) - 1, -1, -1):
        there = alerts[place]
        if _identity(there) == _identity(alert):
            alerts[place] = replace(alert, notify=there.notify)
            return
    alerts.append(alert)


def _identity(alert: Alert) -> tuple[str, int, str, str]:
    return alert.rule, alert.step, alert.severity, alert.state
