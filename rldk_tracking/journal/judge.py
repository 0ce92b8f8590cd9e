"""Judges the rows of a run, and says what is to be done for the rules that fire, see `health.actions`.

Stopping and saving are the trainer's: here is said that they are asked for. Functions are called on the training
thread; webhooks are trackers, which the courier calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rldk_tracking.charts.series import limits_of
from rldk_tracking.health.actions import Call, Function, Webhook
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import NEVER_LOGGED, Engine
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import row_rules, watched_rules
from rldk_tracking.isolation import Shield
from rldk_tracking.journal.settings import Settings
from rldk_tracking.sources.own_names import OwnNames
from rldk_tracking.trackers.webhook import WebhookNotifier

logger = logging.getLogger(__name__)

STOP, SAVE = 1, 2
"""Flags of what the trainer is to do."""


class Judge:
    """The rules of one run and what they ask for.

    Args:
        rules: all of them; those of the family `run` are judged by the courier.
        settings: what the user asked for.
        config: settings of the trainer that alerts quote.

    Attributes:
        stop: the alert that asked for a stop, if any.
        own_names: what is read of the logs under names that are not in the catalogue.
    """

    def __init__(self, rules: Sequence[Rule], settings: Settings, config: Mapping[str, Any]) -> None:
        self.stop: Alert | None = None
        self.engine = Engine(row_rules(rules), context=dict(config), strict=settings.strict)
        self._actions = Actions(rules, settings.strict)
        self._stops_when_critical = settings.on_critical == "stop"
        self._limits = limits_of(settings.overrides, settings.goals)
        self._asking = {rule.id: names for rule in self.engine.rules if (names := rule.own_names)}
        self._charts = tuple(settings.charts)
        self.own_names = OwnNames([*(name for names in self._asking.values() for name in names), *self._charts])
        self._never: Alert | None = None

    @property
    def status(self) -> str:
        """The run's: that of its most severe alert, "running" without any."""
        severities = {alert.severity for alert in self.engine.firing}
        return next((severity for severity in ("critical", "warning") if severity in severities), "running")

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another run; afresh, with a warning, where it cannot be read."""
        try:
            self.engine.load_state(state)
            self._never = Alert(**state["never_logged"]) if state.get("never_logged") else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("rldk: the checkpoint's state is not taken over, judging starts afresh: %s", error)

    def state(self) -> dict[str, Any]:
        """Plain data from which `load_state` goes on."""
        return self.engine.state() | {"never_logged": self._never and self._never.as_dict()}

    @property
    def firing(self) -> list[Alert]:
        """The alerts that are open, most severe first."""
        return self.engine.firing + ([] if self._never is None else [self._never])

    def update(self, step: int, row: dict[str, float], is_late: bool = False) -> list[Alert]:
        """Judge a row, which gets the scores. Returns the alerts that begin, become more severe, or end.

        Args:
            step: the global step.
            row: key to number.
            is_late: it is of an earlier step, and so gets no scores: they are those of the present one.
        """
        alerts = self.engine.update(step, row)
        if not is_late:
            alerts += self._never_logged(step)
            row.update(self.engine.scores())
            row.update(self.engine.coverage())
            row["rldk/alerts/firing"] = float(len(self.firing))
            row.update(self._limits)
        return alerts

    def own_numbers(self, logs: Mapping[str, Any], is_last: bool = False) -> dict[str, float]:
        """What a log holds under names that are not in the catalogue and that a rule or chart asks for."""
        return self.own_names.read(logs, is_last) if self._asking or self._charts else {}

    def _never_logged(self, step: int) -> list[Alert]:
        """The alert about names that rules or charts ask for and that no log had: when it is due, and its end."""
        own, was = self.own_names, self._never
        if was is None and not own.missing:
            return []
        unknown = {*self.engine.unknown()}
        asking = {**{rule: names for rule, names in self._asking.items() if rule in unknown}, "a chart": self._charts}
        if was is not None:
            if any(name in own.missing for names in asking.values() for name in names):
                return []
            self._never = None
            message = f"Every name that is asked for has come. It was: {was.message}"
            return [replace(was, state="resolved", step=step, message=message, advice="")]
        never = own.never(asking)
        if not never:
            return []
        self._never = Alert(
            rule=NEVER_LOGGED,
            severity="info",
            state="firing",
            step=step,
            first_step=step,
            value=float(len(never)),
            threshold=0.0,
            message=f"{'; '.join(never)}.",
            advice="Write the name as the trainer logs it. What goes straight into a tracker is not seen here: log it "
            "by trainer.log, or by log_metric in a reward function.",
        )
        logger.warning("rldk: %s", self._never.message)
        return [self._never]

    def act(self, step: int, alerts: Sequence[Alert], unsent: Sequence[Alert]) -> int:
        """Do what the rules of a step's alerts ask for. Returns the flags; a stop that was asked for stays so.

        Args:
            step: the global step. Alerts of earlier ones, which have fewer consequences by now, ask for nothing.
            alerts: of `update`.
            unsent: those of them of which nobody knows yet.
        """
        new = [alert for alert in alerts if alert.step == step]
        for alert in unsent:
            if alert.step == step:
                self._actions.call(alert)
        self.stop = self.stop or self._critical(new) or self._actions.stop(new)
        return (SAVE if self._actions.save(new) else 0) | (STOP if self.stop is not None else 0)

    def _critical(self, alerts: Sequence[Alert]) -> Alert | None:
        """The first of these alerts that ends the training, where the user wants that."""
        critical = (alert for alert in alerts if alert.severity == "critical" and alert.state == "firing")
        return next(critical, None) if self._stops_when_critical else None


class Actions:
    """The actions of a run's rules.

    Args:
        rules: those that are watched.
        strict: let the errors of functions out.

    Raises:
        ValueError: a function's name that stands for nothing, a webhook's address that cannot be, or an action that
            nobody can take.
    """

    def __init__(self, rules: Iterable[Rule], strict: bool = False) -> None:
        rules = list(rules)
        for rule in watched_rules(rules):
            _refuse_what_the_training_does(rule)
        self._shield = Shield(strict)
        self._stops = {rule.id for rule in rules if "stop" in rule.actions}
        self._saves = {rule.id for rule in rules if "save" in rule.actions}
        self._functions: dict[str, list[Function]] = {rule.id: functions_of(rule) for rule in rules}
        webhooks_of(rules)

    def stop(self, alerts: Iterable[Alert]) -> Alert | None:
        """The first of these alerts whose rule asks to stop."""
        return next((alert for alert in alerts if alert.state == "firing" and alert.rule in self._stops), None)

    def save(self, alerts: Iterable[Alert]) -> bool:
        """Whether a rule of one of these alerts asks for a checkpoint."""
        return any(alert.state == "firing" and alert.rule in self._saves for alert in alerts)

    def call(self, alert: Alert) -> None:
        """Call the rule's functions."""
        for function in self._functions.get(alert.rule, ()):
            with self._shield.at(f"an action of {alert.rule}"):
                function(alert)


def _refuse_what_the_training_does(rule: Rule) -> None:
    """Of a rule that is judged by the courier, whose alerts the training never sees. Raises ValueError."""
    if any(not isinstance(action, Webhook) and action != "alert" for action in rule.actions):
        raise ValueError(
            f"{rule.id} fires when the training stands still or is gone, so the training cannot stop, save or call a "
            "function for it. Take these out of its actions; a webhook can be asked for."
        )


def functions_of(rule: Rule) -> list[Function]:
    """The functions that a rule calls.

    Raises:
        ValueError: a name that stands for nothing.
    """
    found: list[Function] = []
    for action in rule.actions:
        if isinstance(action, Call):
            found.append(action.function())
        elif callable(action):
            found.append(action)
    return found


def webhooks_of(rules: Iterable[Rule]) -> list[WebhookNotifier]:
    """One notifier for each webhook that rules name, with all rules that name it.

    Raises:
        ValueError: an address that cannot be; the message does not quote it.
    """
    asking: dict[Webhook, list[str]] = {}
    for rule in rules:
        for action in rule.actions:
            if isinstance(action, Webhook):
                asking.setdefault(action, []).append(rule.id)
    found = []
    for webhook, names in asking.items():
        try:
            notifier = WebhookNotifier(
                webhook.reveal(),
                rules=names,
                environment=webhook.environment or "",
                allow_loopback=webhook.allow_loopback,
            )
        except ValueError as error:
            where = f" (environment variable {webhook.environment})" if webhook.environment else ""
            raise ValueError(f"{', '.join(names)}: {error}{where}") from error
        found.append(notifier)
    return found
