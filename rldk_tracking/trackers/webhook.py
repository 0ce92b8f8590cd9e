"""Any receiver of JSON, for the alerts of the rules that name it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.channel import ALERTS, Message
from rldk_tracking.trackers.notifier import Notifier


class WebhookNotifier(Notifier):
    """Posts the alerts of some rules to any receiver of JSON.

    The body is the alert's own fields (`rule`, `severity`, `state`, `step`, `first_step`, `value`, `threshold`,
    `message`, `advice`, `evidence`, `key`) with `run`, the run's name. Numbers that are not finite are null.

    Args:
        address, allow_loopback, retries, backoff: as for `Notifier`.
        rules: ids of the rules whose alerts are posted.
        environment: the variable that the address was taken from, where it was.
    """

    name: ClassVar[str] = "webhook"
    service: ClassVar[str] = "webhook"

    def __init__(
        self,
        address: str,
        *,
        rules: Iterable[str],
        allow_loopback: bool = False,
        environment: str = "",
        retries: int = 4,
        backoff: float = 1.0,
    ) -> None:
        self.environment = environment
        super().__init__(address, allow_loopback=allow_loopback, retries=retries, backoff=backoff, messages=ALERTS)
        self.rules = frozenset(rules)

    def __repr__(self) -> str:
        return f"WebhookNotifier(address=***, rules={sorted(self.rules)})"

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> WebhookNotifier:
        return cls(
            secrets.get("url", ""),
            rules=[rule for rule in to.get("rules", "").split(",") if rule],
            allow_loopback="allow_loopback" in secrets,
            environment=to.get("environment", ""),
            retries=0,
        )

    def address(self) -> Mapping[str, str]:
        """The variable that holds the address, where one does, and the rules."""
        place = {"environment": self.environment} if self.environment else {}
        return place | {"rules": ",".join(sorted(self.rules))}

    def send(self, message: Message) -> None:
        """Its rules name alerts alone."""

    def _send_alert(self, alert: Alert) -> None:
        self._post(self.payload(alert))

    def payload(self, alert: Alert) -> dict[str, Any]:
        return {name: _plain(value) for name, value in (alert.as_dict() | {"run": self.run_name}).items()}

    def _is_wanted(self, alert: Alert) -> bool:
        return alert.rule in self.rules


class WebhookBackend(Backend):
    """See `WebhookNotifier`, which rules bring."""

    kind = WebhookNotifier

    def check(self, versions: Mapping[str, str | None]) -> None:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
