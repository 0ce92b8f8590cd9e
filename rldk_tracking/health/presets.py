"""Which rules, how strict: a preset, a YAML file, or rules of one's own, with overrides by rule."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.rules import Rule, parameters_of
from rldk_tracking.health.user_rules import RulesFile, UserRulesError

PRESETS = ("safe", "strict", "quiet")
SUFFIXES = (".yaml", ".yml")
"""How the path of a file of rules ends."""
SILENCE_FACTORS = {"strict": 0.5, "quiet": 2.0}
"""By which a preset multiplies what a silence may last: its persistence, in looks of a second, would change nothing."""


def rules_for(
    preset: str | Iterable[Rule] = "safe", overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Rule]:
    """The rules of a preset, with overrides.

    Args:
        preset: "safe" (the rules as published), "strict" (believed sooner), "quiet" (critical ones, and warnings
            only where they last), the path of a YAML file (see `rldk_tracking.health.user_rules`), or rules.
        overrides: rule id to fields of the rule or parameters of its condition: `{"kl.high": {"threshold": 0.2}}`.
            `{"kl.high": {"enabled": False}}` leaves the rule out.

    Raises:
        ValueError: an unknown preset, rule, or field; the message names what there is. A `UserRulesError` for a file.
    """
    if isinstance(preset, str) and preset.endswith(SUFFIXES):
        rules = load_rules(preset)
    elif isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}, and paths of .yaml files.")
        rules = [_as_in(preset, rule) for rule in RULES.values()]
    else:
        rules = list(preset)
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ValueError(f"rules must be a preset's name or Rule objects, got {type(rule).__name__}.")
    chosen = {rule.id: rule for rule in rules}
    if len(chosen) < len(rules):
        raise ValueError("two rules have the same id.")
    for name, fields in (overrides or {}).items():
        if name not in chosen:
            raise ValueError(f"no rule {name!r}{_nearest(name, chosen)}")
        changed = override(chosen[name], fields)
        if changed is None:
            del chosen[name]
        else:
            chosen[name] = changed
    return list(chosen.values())


def load_rules(path: str | Path, within: tuple[Path, ...] = ()) -> list[Rule]:
    """The rules of a file, with those that it begins with.

    Args:
        path: the file.
        within: the files that begin with this one.

    Raises:
        UserRulesError: the file is not what it should be, or begins with itself.
    """
    path = Path(path)
    chain = (*within, path.resolve())
    if path.resolve() in within:
        raise UserRulesError(f"{path} begins with itself: {' -> '.join(file.name for file in chain)}.")
    file = RulesFile(path)
    own = {rule.id for rule in file.rules}
    try:
        if file.preset == "none":
            base = []
        elif isinstance(file.preset, str) and file.preset.endswith(SUFFIXES):
            base = load_rules(path.parent / file.preset, chain)
        else:
            base = rules_for(file.preset)
        return rules_for([rule for rule in base if rule.id not in own] + file.rules, file.overrides)
    except (ValueError, AttributeError, TypeError) as error:
        raise file.error(str(error)) from error


def override(rule: Rule, fields: Mapping[str, Any]) -> Rule | None:
    """The rule with other fields or parameters; None where it is switched off.

    Raises:
        ValueError: a name that neither the rule nor its condition has, or a value that does not fit.
    """
    given = dict(fields)
    if given.pop("enabled", True) is False:
        return None
    known, parameters = set(Rule.model_fields) - {"id", "parameters"}, parameters_of(rule.condition)
    data = {name: getattr(rule, name) for name in Rule.model_fields}
    data["parameters"] = dict(rule.parameters)
    for name, value in given.items():
        if name == "parameters":
            data["parameters"].update(value)
        elif name in known:
            data[name] = value
        elif name in parameters:
            data["parameters"][name] = value
        else:
            names = ["enabled", *parameters, *sorted(known)]
            raise ValueError(f"rule {rule.id!r} has no field {name!r}{_nearest(name, names)}")
    try:
        return Rule(**data)
    except ValidationError as error:
        reasons = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ValueError(f"override of {rule.id!r}: {reasons}") from error


def _nearest(name: str, names: Iterable[str]) -> str:
    names = list(names)
    close = difflib.get_close_matches(name, names, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}."


def _as_in(preset: str, rule: Rule) -> Rule:
    if rule.condition == "silence" and preset in SILENCE_FACTORS:
        scaled = {name: SILENCE_FACTORS[preset] * rule.parameters[name] for name in ("threshold", "times", "first")}
        return rule.model_copy(update={"parameters": {**rule.parameters, **scaled}})
    k, n = rule.persistence
    if preset == "strict":
        changes = {"persistence": (max(1, k // 2), max(1, n // 2)), "cooldown_steps": rule.cooldown_steps // 2}
    elif preset == "quiet" and rule.severity == "warning":
        changes = {"persistence": (2 * k, 2 * n), "cooldown_steps": max(100, 2 * rule.cooldown_steps)}
    else:
        return rule
    return rule.model_copy(update=changes)
