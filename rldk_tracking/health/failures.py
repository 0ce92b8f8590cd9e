"""Rules that raise: switched off, so that the others go on, and an alert says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.watch import Watch
from rldk_tracking.isolation import Shield

logger = logging.getLogger(__name__)

RULE_FAILED = "health.rule_failed"
"""Id of the alert. It is in no catalogue, as it is about the rules there."""
CAUSE_CHARACTERS = 200


class Failures:
    """The rules of a run that raised, and the alert about them.

    Args:
        strict: let the exceptions out, for development and tests.

    Attributes:
        causes: rule id to the exception in words.
        alert: the alert that is open; None while every rule works.
    """

    def __init__(self, strict: bool = False) -> None:
        self.causes: dict[str, str] = {}
        self.alert: Alert | None = None
        self.shield = Shield(strict)
        self._earlier: Alert | None = None

    def each(
        self, changes: list[Alert], watches: Iterable[Watch], work: Callable[..., object], step: int, *given: Any
    ) -> list[Watch]:
        """Do the work for every rule, and switch off those that raise.

        Args:
            changes: gets the alerts about those that failed.
            watches: the rules that work so far.
            work: what may fail.
            step: the trainer's global step, the work's second argument.
            given: further arguments of it.

        Returns:
            The watches that failed now.
        """
        if self._earlier is not None:
            changes.append(_resolved(self._earlier, step))
            self._earlier = None
        failed = self.shield.each(watches, work, step, *given)
        for watch, error in failed:
            cause = f"{type(error).__name__}: {error}"[:CAUSE_CHARACTERS]
            self.causes[watch.rule.id] = cause
            about = "rldk: the rule %s failed at step %d and is switched off; the others go on."
            logger.error(about, watch.rule.id, step, exc_info=error)
            was = watch.firing()
            if was is not None:
                changes.append(watch.resolve(step, was, f"No longer judged, because the rule failed ({cause})."))
        if failed:
            self.alert = self._about(step)
            changes.append(self.alert)
        return [watch for watch, _ in failed]

    def _about(self, step: int) -> Alert:
        named = "; ".join(f"{rule} ({cause})" for rule, cause in self.causes.items())
        return Alert(
            rule=RULE_FAILED,
            severity="warning",
            state="firing",
            step=step,
            first_step=step if self.alert is None else self.alert.first_step,
            value=float(len(self.causes)),
            threshold=0.0,
            message=f"Rules failed and are switched off, so nothing is known of what they watch for: {named}.",
            advice="The log of the training has the traceback. Mend the rule, or switch it off yourself: "
            'overrides={"RULE": {"enabled": False}}.',
            evidence=dict(self.causes),
        )

    def state(self) -> dict[str, Any]:
        """The alert that is open, as plain data."""
        return {} if self.alert is None else self.alert.as_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """A resumed run judges every rule again; the alert of the run before ends with its first row."""
        self._earlier = Alert(**state) if state else None


def _resolved(was: Alert, step: int) -> Alert:
    message = f"Every rule is judged again since the run was resumed. It was: {was.message}"
    return Alert(was.rule, was.severity, "resolved", step, was.first_step, None, was.threshold, message, "")
