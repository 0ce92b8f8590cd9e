"""Any receiver of JSON: one POST when a rule's alert fires or becomes more severe, one when it ends.

The body is the alert's own fields (`rule`, `severity`, `state`, `step`, `first_step`, `value`, `threshold`, `message`,
`advice`, `evidence`, `key`) with `run`, the run's name. Numbers that are not finite are null. The address is a secret,
and everything about the way there is as with Slack: https only, no redirects, retries off the training thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.slack import SlackNotifier


class WebhookNotifier(SlackNotifier):
    """Posts the alerts of some rules.

    Args:
        address: `https://...`.
        rules: ids of the rules whose alerts are posted.
        allow_loopback: let the address be plain http on this machine.
        environment: the variable that the address was taken from, where it was.
        retries, backoff: as for `SlackNotifier`.

    Raises:
        ValueError: no address, or one that is not https. The message does not quote it.
    """

    name: ClassVar[str] = "webhook"
    service: ClassVar[str] = "webhook"
    environment: ClassVar[str] = ""

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
        self._variable = environment
        super().__init__(address, allow_loopback=allow_loopback, min_severity="info", retries=retries, backoff=backoff)
        self.rules = frozenset(rules)

    def __repr__(self) -> str:
        return f"WebhookNotifier(address=***, rules={sorted(self.rules)})"

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> WebhookNotifier:
        variable = to.get("environment", "")
        return cls(
            secrets.get("url") or os.environ.get(variable, ""),
            rules=[rule for rule in to.get("rules", "").split(",") if rule],
            allow_loopback="allow_loopback" in secrets,
            environment=variable,
            retries=0,
        )

    def address(self) -> Mapping[str, str]:
        """The variable that holds the address, where one does, and the rules."""
        place = {"environment": self._variable} if self._variable else {}
        return place | {"rules": ",".join(sorted(self.rules))}

    def payload(self, alert: Alert) -> dict[str, Any]:
        """The body of the request."""
        return {name: _plain(value) for name, value in (alert.as_dict() | {"run": self.run_name}).items()}

    def _is_wanted(self, alert: Alert) -> bool:
        return alert.rule in self.rules


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
