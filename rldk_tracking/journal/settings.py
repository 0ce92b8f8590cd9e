"""What the user asks of a run, and how the wishes of several monitors are joined."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rldk_tracking.health.goals import rules_of
from rldk_tracking.health.presets import checked_overrides, rules_for
from rldk_tracking.messages.arguments import flag, folder, listed, shown, word
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.channel import Channel, wanted
from rldk_tracking.trackers.notify import channels
from rldk_tracking.trackers.slack import ENVIRONMENT, SlackNotifier

if TYPE_CHECKING:
    from rldk_tracking.health.rule import Rule

logger = logging.getLogger(__name__)

OnCritical = Literal["alert", "stop"]
TRACKERS = "[MLflowTracker()], or leave it out for those of the trainer's report_to"
SLACK = f'slack="https://hooks.slack.com/services/...", or leave it out for the address in {ENVIRONMENT}'


@dataclass
class Settings:
    """What the monitors of a run ask for. See the arguments of `rldk_tracking.monitors.base.Monitor`.

    Attributes:
        policy_is_new: False where this trainer has trained before: its policy is then not the reference at the start.
        saves_view: whether the first run of a W&B project saves the charts as a view there.
        notify: channels beside Slack; None for those in `RLDK_NOTIFY_URLS`.
        messages: words for channels that have none of their own, as for `Channel`.
        is_alone: True where this process logs for all of its job, and no other rank is to be waited for.

    Raises:
        TypeError, ValueError: an argument cannot be; the message says what to write instead, and quotes no address.
        ImportError: `RLDK_NOTIFY_URLS` asks for a package that is not installed.
    """

    trackers: list[Tracker] | None = None
    rules: str | os.PathLike[str] | list[Rule] = "safe"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_critical: OnCritical = "alert"
    slack: Any = None
    output_dir: str | os.PathLike[str] | None = None
    goals: dict[str, float] = field(default_factory=dict)
    charts: list[str] = field(default_factory=list)
    strict: bool = False
    close_timeout_s: float = 15.0
    policy_is_new: bool = True
    saves_view: bool = True
    notify: list[Channel] | None = None
    messages: str | None = None
    is_alone: bool = False

    def __post_init__(self) -> None:
        if self.trackers is not None:
            self.trackers = listed("trackers", self.trackers, Tracker, TRACKERS)  # type: ignore[type-abstract]
        self.overrides = checked_overrides(self.overrides)
        word("on_critical", self.on_critical, ("alert", "stop"))
        wanted(self.messages)
        self.slack = _notifier(self.slack, self.trackers is None, self.messages)
        if self.trackers is None and self.notify is None:
            channels(None, self.messages)  # raises now, not in training
        self.output_dir = folder("output_dir", self.output_dir, '"rldk_logs"')
        flag("strict", self.strict)

    @property
    def named_trackers(self) -> list[Tracker] | None:
        """The trackers that the user named, with the notifier; None where the trainer's are wanted."""
        if self.trackers is None or not self.slack or self.slack in self.trackers:
            return self.trackers
        self.slack.link_to(self.trackers)
        return [*self.trackers, self.slack]

    def digest(self, rules: Sequence[Rule]) -> str:
        """Of the rules and `on_critical`, for ranks to compare. Of a function or an address only the kind counts."""
        plain = [
            (rule.model_dump(mode="json", exclude={"actions"}), [_kind(action) for action in rule.actions])
            for rule in rules
        ]
        return hashlib.sha256(json.dumps([plain, self.on_critical], sort_keys=True).encode()).hexdigest()

    def adopt(self, other: Settings) -> None:
        """Join another monitor's wishes: trackers and overrides are added, of two choices the severer one stands.

        What is not heeded is said as a warning.
        """
        if other is self:
            return
        if other.trackers is not None:
            known = self.trackers or []
            self.trackers = known + [tracker for tracker in other.trackers if all(tracker is not k for k in known)]
        self._adopt_rules(other)
        self.charts = [*dict.fromkeys((*self.charts, *other.charts))]
        self.on_critical = "stop" if "stop" in (self.on_critical, other.on_critical) else "alert"
        if self.slack and other.slack and self.slack.secrets() != other.slack.secrets():
            _say("the slack of the first is used, that of another is not.")
        self.slack = self.slack or other.slack
        self.notify, self.messages = self.notify or other.notify, self.messages or other.messages
        mine, theirs = self.output_dir, other.output_dir
        if mine and theirs and os.path.abspath(mine) != os.path.abspath(theirs):
            _say(f"the journal is in output_dir={mine!r} of the first, not in {theirs!r}: a run has one journal.")
        self.output_dir = self.output_dir or other.output_dir
        self.strict = self.strict or other.strict
        self.saves_view = self.saves_view and other.saves_view
        self.is_alone = self.is_alone or other.is_alone

    def _adopt_rules(self, other: Settings) -> None:
        before = self.rules, deepcopy(self.overrides), dict(self.goals)
        if other.rules != "safe" and self.rules not in ("safe", other.rules):
            _say(f"rules={_named(self.rules)} of the first stand, {_named(other.rules)} of another is not used.")
        for rule, fields in other.overrides.items():
            mine = self.overrides.setdefault(rule, {})
            _say_changes(f"overrides of {rule!r}", mine, fields)
            mine.update(fields)
        _say_changes("performance_benchmarks", self.goals, other.goals)
        self.goals.update(other.goals)
        if self.rules == "safe":
            self.rules = other.rules
        try:
            self.all_rules()
        except ValueError as error:
            self.rules, self.overrides, self.goals = before
            _say(f"the rules of another cannot be joined with those of the first, and are not used: {error}")

    def all_rules(self) -> list[Rule]:
        """The rules that are watched.

        Raises:
            ValueError: a rule, an override or a goal cannot be.
        """
        rules = [*rules_for(self.rules, self.overrides), *rules_of(self.goals)]
        return [rule for rule in rules if self.policy_is_new or rule.id != "reference.mismatch"]


def _notifier(slack: object, is_wanted: bool, messages: str | None) -> SlackNotifier | Literal[False] | None:
    """The notifier that is meant; None for that of the environment, which is looked at now and not in training."""
    if isinstance(slack, SlackNotifier) or slack is False:
        return slack
    if slack is None and not (is_wanted and os.environ.get(ENVIRONMENT)):
        return None
    if slack is None:
        try:
            SlackNotifier()
        except ValueError as error:
            raise ValueError(f"{ENVIRONMENT}: {error}; slack=False is for none.") from None
        return None
    if not isinstance(slack, str):
        raise TypeError(
            f"slack must be a webhook's address, a SlackNotifier or False, got {shown(slack)}: write {SLACK}."
        )
    try:
        return SlackNotifier(slack, messages=messages)
    except ValueError as error:  # which does not quote the address
        raise ValueError(f"slack: {error}: write {SLACK}.") from None


def _kind(action: object) -> str:
    return action if isinstance(action, str) else type(action).__name__


def _named(rules: str | os.PathLike[str] | list[Rule]) -> str:
    return f"a list of {len(rules)} rules" if isinstance(rules, list) else repr(rules)


def _say_changes(what: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name, value in theirs.items():
        if name in mine and mine[name] != value:
            _say(f"{what}: {name} {shown(value)} of the last is used, {shown(mine[name])} is not.")


def _say(what: str) -> None:
    logger.warning("rldk: several monitors of one training ask for different things: %s", what)


def needs_journal(trackers: Sequence[Tracker], are_given: bool) -> bool:
    """Whether a run without a folder has its journal in the working folder.

    Args:
        trackers: the run's.
        are_given: whether the user named exactly these, and so wants nothing else to be written.
    """
    return not are_given or not all(tracker.in_process for tracker in trackers)
