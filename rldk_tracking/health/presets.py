"""Which rules, how strict: a preset, a YAML file, or rules of one's own, with overrides by rule."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rldk_tracking.health.expression import Expression
from rldk_tracking.health.parameters import parameters_of
from rldk_tracking.health.rule import FAMILIES, Rule, RuleError
from rldk_tracking.health.rules_file import RulesFile, RulesFileError
from rldk_tracking.messages.arguments import flag, mapping, nearest, shown
from rldk_tracking.messages.packages import RULES, extensions, tried

T = TypeVar("T")

PRESETS = ("safe", "strict", "quiet")
BUILT_IN = Path(__file__).parent / "rules"
"""The folder of the built-in rules, one file a family."""
SUFFIXES = (".yaml", ".yml")
"""How the path of a file of rules ends."""
FORMS = '"safe", "strict", "quiet", the path of a .yaml file, or a list of Rule'
SILENCE_FACTORS = {"strict": 0.5, "quiet": 2.0}
"""By which a preset multiplies what a silence may last: its persistence, in looks of a second, would change nothing."""
THRESHOLDS = {"kl_threshold": "kl.high", "reward_threshold": "reward.no_signal", "gradient_threshold": "grad.explosion"}
"""What monitors call the threshold of a rule, as an argument of their own."""
MAX_RULES = 500
MAX_ROW_COST = 600_000
"""Of the expressions of a rule set together, see `Expression.row_cost`: about 0.1 s a row."""


@functools.cache
def builtin_rules() -> Mapping[str, Rule]:
    """Id to rule, as in the preset "safe". The files are read when they are first asked for."""
    files = [BUILT_IN / f"{family}.yaml" for family in FAMILIES]
    return {rule.id: rule for file in files if file.is_file() for rule in RulesFile(file).rules}


def rules_for(
    preset: str | os.PathLike[str] | Sequence[Rule] = "safe", overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Rule]:
    """The rules of a preset, with overrides.

    Args:
        preset: "safe" (the rules as published), "strict" (believed sooner), "quiet" (critical ones, and warnings
            only where they last), the path of a YAML file (see `rldk_tracking.health.rules_file`), or rules.
        overrides: rule id to fields of the rule or parameters of its condition: `{"kl.high": {"threshold": 0.2}}`.
            `{"kl.high": {"enabled": False}}` leaves the rule out; None stands for the rule's own value.

    Raises:
        ValueError: an unknown preset, rule, or field, a value that does not fit, or more rules than can be judged; the
            message names what there is. A `RulesFileError` for a file, a `RuleError` for a rule.
    """
    rules = _named(preset)
    chosen = {rule.id: rule for rule in rules}
    if len(chosen) < len(rules):
        twice = next(rule.id for rule in rules if sum(rule.id == other.id for other in rules) > 1)
        raise RuleError(twice, "two rules have the same id: give one of them another, or change it by overrides.")
    for name, fields in checked_overrides({} if overrides is None else overrides).items():
        if name not in chosen:
            raise RuleError(name, f"there is no such rule{nearest(name, chosen)}")
        changed = override(chosen[name], fields)
        if changed is None:
            del chosen[name]
        else:
            chosen[name] = changed
    _check_set(list(chosen.values()))
    return list(chosen.values())


def checked_overrides(given: object) -> dict[str, dict[str, Any]]:
    """Rule id to fields, where it is that.

    Raises:
        ValueError: it is not.
    """
    try:
        overrides = mapping("overrides", given, 'overrides={"kl.high": {"threshold": 0.2}}')
    except TypeError as error:
        raise ValueError(str(error)) from None
    for name, fields in overrides.items():
        if not isinstance(fields, Mapping):
            example = f'{{"{name}": {{"threshold": {shown(fields)}}}}}'
            raise RuleError(name, f"an override is a mapping of its fields, got {shown(fields)}: write {example}.")
    return {name: dict(fields) for name, fields in overrides.items()}


def load_rules(path: str | Path, within: tuple[Path, ...] = ()) -> list[Rule]:
    """The rules of a file, with those that it begins with.

    Args:
        path: the file.
        within: the files that begin with this one.

    Raises:
        RulesFileError: the file is not what it should be, or begins with itself.
    """
    path = Path(path)
    chain = (*within, path.resolve())
    if path.resolve() in within:
        raise RulesFileError(f"{path} begins with itself: {' -> '.join(file.name for file in chain)}.")
    file = RulesFile(path)
    own = {rule.id for rule in file.rules}
    base: list[Rule] = []
    try:
        if isinstance(file.preset, str) and file.preset.endswith(SUFFIXES):
            base = load_rules(path.parent / file.preset, chain)
        elif file.preset != "none":
            base = _named(file.preset)
    except ValueError as error:
        raise file.error(error, ("preset",)) from error
    try:
        return rules_for([rule for rule in base if rule.id not in own] + file.rules, file.overrides)
    except ValueError as error:
        raise file.error(error, ("overrides",)) from error


def override(rule: Rule, fields: Mapping[str, Any]) -> Rule | None:
    """The rule with other fields or parameters; None where it is switched off.

    Raises:
        RuleError: a name that neither the rule nor its condition has, or a value that does not fit.
    """
    given = dict(fields)
    if not _checked(rule.id, "enabled", given.pop("enabled", True), flag):
        return None
    example = '{"parameters": {"threshold": 0.2}}'
    more = given.pop("parameters", {})
    of_parameters = _checked(rule.id, "parameters", more, lambda name, value: mapping(name, value, example))
    known, parameters = set(Rule.model_fields) - {"id", "parameters"}, parameters_of(rule.condition)
    data = {name: getattr(rule, name) for name in Rule.model_fields}
    data["parameters"] = dict(rule.parameters)
    for name, value in given.items():
        if not isinstance(name, str) or name not in (*known, *parameters):
            names = ["enabled", *parameters, *sorted(known)]
            raise RuleError(rule.id, f"there is no field {name!r}{nearest(name, names)}", (name,))
        if name in known:
            data[name] = value
        else:
            of_parameters[name] = value
    for name, value in of_parameters.items():
        if value is not None or name not in parameters or parameters[name].takes_none:
            data["parameters"][name] = value
    return Rule(**data)


def _checked(rule: str, name: str, value: object, check: Callable[[str, object], T]) -> T:
    try:
        return check(name, value)
    except TypeError as error:
        raise RuleError(rule, str(error), (name,)) from None


def _named(preset: object) -> list[Rule]:
    """The rules that the user named, without overrides."""
    if isinstance(preset, os.PathLike):
        preset = os.fspath(preset)
    if isinstance(preset, str) and preset.endswith(SUFFIXES):
        return load_rules(preset)
    if isinstance(preset, str):
        if preset not in PRESETS:
            close = difflib.get_close_matches(preset, PRESETS, 1, 0.7)
            known = (
                f"did you mean {close[0]}?" if close else f"there are {', '.join(PRESETS)}, and paths of .yaml files."
            )
            raise ValueError(f"unknown preset {shown(preset)}; {known}")
        return [_as_in(preset, rule) for rule in (*builtin_rules().values(), *rules_of_packages())]
    if isinstance(preset, Rule):
        raise ValueError(f"rules must be {FORMS}, got the rule {preset.id!r}: write rules=[...] around it.")
    if not isinstance(preset, (list, tuple)):
        raise ValueError(f'rules must be {FORMS}, got {shown(preset)}: leave it out for "safe".')
    for rule in preset:
        if not isinstance(rule, Rule):
            hint = "write Rule(**...)" if isinstance(rule, Mapping) else 'write Rule(id="team.slow", ...)'
            raise ValueError(f"rules must hold Rule objects, got {_kind(rule)}: {hint}.")
    return list(preset)


@functools.cache
def rules_of_packages() -> tuple[Rule, ...]:
    """What other packages add to the presets: lists of rules, paths of YAML files, or functions that give one."""
    found: list[Rule] = []
    for extension in extensions(RULES):
        read = functools.partial(_of_package, extension.value, tuple(found))
        found += tried(extension.package, extension.name, read) or []
    return tuple(found)


def _of_package(value: Any, others: Sequence[Rule]) -> list[Rule]:
    """The rules of one package. Raises ValueError where they cannot be, or cannot stand beside those that there are."""
    given = value() if callable(value) else value
    rules = RulesFile(Path(given)).rules if isinstance(given, (str, os.PathLike)) else _named(given)
    rules_for([*builtin_rules().values(), *others, *rules])
    return rules


def _kind(value: object) -> str:
    return f"a {type(value).__name__}" if isinstance(value, Mapping) else shown(value)


def _check_set(rules: list[Rule]) -> None:
    """What can be judged in the time of a step, and whether the rules that they name are there.

    Raises:
        RuleError: see the message.
    """
    if len(rules) > MAX_RULES:
        raise RuleError(
            rules[MAX_RULES].id,
            f"it is one of {len(rules)} rules, of which each takes time in every row; at most {MAX_RULES} can be "
            "judged. Put conditions of one kind into one expression with `or`.",
        )
    costs = {
        rule.id: sum(Expression(text).row_cost for text in rule.parameters.values() if isinstance(text, str))
        for rule in rules
        if rule.condition == "written"
    }
    total = sum(costs.values())
    if total > MAX_ROW_COST:
        worst = max(costs, key=lambda name: costs[name])
        raise RuleError(
            worst,
            f"its windows take {costs[worst]:,} of the {total:,} operations a row of all expressions, and "
            f"{MAX_ROW_COST:,} are the most: shorten them. slope, rising and falling of n rows take n² / 2, "
            "the other functions n.",
            ("parameters", "when"),
        )
    names = {rule.id for rule in rules} | set(builtin_rules()) | {"*"}
    families = {rule.family for rule in rules} | set(FAMILIES)
    for rule in rules:
        for pattern in rule.silences:
            if pattern not in names and not (pattern.endswith(".*") and pattern[:-2] in families):
                raise RuleError(
                    rule.id,
                    f"it silences {pattern!r}, and there is no such rule{nearest(pattern, names)}",
                    ("silences",),
                )


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
