"""Does what rules ask for when they fire, see `health.actions`.

Stopping and saving are the trainer's: here is said that they are asked for. Functions are called on the training
thread; webhooks are trackers, which the courier calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rldk_tracking.health.actions import Call, Function, Webhook
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import watched_rules
from rldk_tracking.isolation import Shield
from rldk_tracking.trackers.webhook import WebhookNotifier


class Actions:
    """The actions of a run's rules.

    Args:
        rules: those that are watched.
        strict: let the errors of functions out.

    Attributes:
        webhooks: one notifier for each webhook.

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
        self.webhooks: Sequence[WebhookNotifier] = webhooks_of(rules)

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
