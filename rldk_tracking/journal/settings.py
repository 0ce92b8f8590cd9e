"""What the user asks of a run, and how the wishes of several monitors are joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rldk_tracking.health.goals import rules_of
from rldk_tracking.health.presets import rules_for
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    from rldk_tracking.health.rules import Rule

OnCritical = Literal["alert", "stop"]


@dataclass
class Settings:
    """What the monitors of a run ask for. See the arguments of `rldk_tracking.monitors.base.Monitor`."""

    trackers: list[Tracker] | None = None
    rules: str | list[Rule] = "safe"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_critical: OnCritical = "alert"
    slack: Any = None
    output_dir: str | None = None
    goals: dict[str, float] = field(default_factory=dict)
    strict: bool = False
    close_timeout_s: float = 15.0

    def adopt(self, other: Settings) -> None:
        """Join another monitor's wishes: trackers and overrides are added, of two choices the severer one stands."""
        if other is self:
            return
        if other.trackers is not None:
            known = self.trackers or []
            self.trackers = known + [tracker for tracker in other.trackers if all(tracker is not k for k in known)]
        for rule, fields in other.overrides.items():
            self.overrides.setdefault(rule, {}).update(fields)
        if self.rules == "safe":
            self.rules = other.rules
        self.goals.update(other.goals)
        self.on_critical = "stop" if "stop" in (self.on_critical, other.on_critical) else "alert"
        self.slack = self.slack or other.slack
        self.output_dir = self.output_dir or other.output_dir
        self.strict = self.strict or other.strict

    def all_rules(self) -> list[Rule]:
        """The rules that are watched.

        Raises:
            ValueError: a rule, an override or a goal cannot be.
        """
        return [*rules_for(self.rules, self.overrides), *rules_of(self.goals)]
