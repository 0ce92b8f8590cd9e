"""Rules that are judged beside the training, and as plain data for the process that judges them.

What they watch for cannot be seen by the training itself, because it happens when that stops. Their keys begin with
`rldk/run/` and come in no row of a training, so the engines of a live run and of a replay are given `row_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.health.rule import Rule, RuleError

PREFIX = "rldk/run/"


def is_watched(rule: Rule) -> bool:
    """Whether the rule is judged beside the training. A rule of the user's own is, if it has such a key."""
    return any(key.startswith(PREFIX) for key in rule.keys)


def row_rules(rules: Iterable[Rule]) -> list[Rule]:
    """The rules that are judged from the rows of a training."""
    return [rule for rule in rules if not is_watched(rule)]


def watched_rules(rules: Iterable[Rule]) -> list[Rule]:
    """The rules that are judged beside the training."""
    return [rule for rule in rules if is_watched(rule)]


def silence_of(rules: Iterable[Rule]) -> Silence | None:
    """What says how long a phase may be silent: of the first rule that asks for it, None where it is switched off."""
    for rule in watched_rules(rules):
        condition = rule.build({})
        if isinstance(condition, Silence):
            return condition
    return None


def as_data(rules: Iterable[Rule]) -> dict[str, dict[str, Any]]:
    """The watched rules as plain data, id to fields; without their actions, which may hold a secret address,
    and their pages, which nobody reads there."""
    exclude = {"id", "actions", "page"}
    return {
        rule.id: rule.model_dump(mode="json", exclude=exclude, exclude_defaults=True) for rule in watched_rules(rules)
    }


def from_data(data: Mapping[str, Mapping[str, Any]]) -> list[Rule]:
    """The rules of `as_data`.

    Raises:
        ValueError: something is no rule, or none that is judged beside the training; the message names it.
    """
    rules = []
    for name, fields in data.items():
        try:
            rule = Rule(**{**fields, "id": name, "actions": ()})
        except (RuleError, TypeError) as error:
            raise ValueError(f"{name!r} is no rule: {error}") from error
        if not is_watched(rule):
            raise ValueError(f"{name!r} is not judged beside the training: its keys do not begin with {PREFIX}.")
        rules.append(rule)
    return rules
