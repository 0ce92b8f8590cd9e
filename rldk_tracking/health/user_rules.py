"""A YAML file of rules, as data; `rldk_tracking.health.presets` adds them to those that it begins with.

    preset: safe                       # begin with these, or with those of another file; "none" for none
    overrides:
      kl.high: {threshold: 0.2}
    rules:
      - id: team.slow
        when: mean("reward/mean", 50) < 0.1 and not rising("reward/mean", 50)
        severity: warning
        persistence: [3, 4]
        message: Reward is {value:.2f} after fifty rows.
        advice: Look at the prompts.
      - id: team.long
        keys: [rldk/length/mean]
        condition: level
        parameters: {threshold: 900, clear: 700}

A rule has either `when` (see `rldk_tracking.health.expression`) or `keys` and `condition`; the other fields are those
of `Rule`. Read with yaml's safe loader; anchors are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rldk_tracking.health.expression import Expression, ExpressionError
from rldk_tracking.health.rules import Rule

MAX_CHARACTERS = 1_000_000
TOP = ("preset", "overrides", "rules")


class UserRulesError(ValueError):
    """The file is not what it should be; the message has the file and the line."""


class RulesFile:
    """What a file says.

    Args:
        path: the file.

    Attributes:
        preset: what the rules are added to: a preset's name, another file's beside this one, or "none".
        overrides: rule id to fields of the rule.
        rules: the file's own.

    Raises:
        UserRulesError: the file cannot be read, is no YAML, or holds something that is no rule.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[tuple[str | int, ...], int] = {}
        data = self._read()
        where = ("rules",) if isinstance(data, dict) else ()
        data = {"rules": data} if isinstance(data, list) else data
        if not isinstance(data, dict) or not set(data) <= set(TOP):
            raise self._error(1, f"the file is a list of rules, or has the keys {', '.join(TOP)}.")
        self.preset: Any = data.get("preset", "safe")
        self.overrides: Any = data.get("overrides") or {}
        listed = data.get("rules") or []
        if not isinstance(listed, list):
            raise self._error(self._line("rules"), "rules is a list.")
        self.rules: list[Rule] = []
        known: dict[str, int] = {}
        for index, fields in enumerate(listed):
            rule, line = self._rule(fields, (*where, index)), self._line(*where, index)
            if rule.id in known:
                raise self._error(line, f"{rule.id} is also in line {known[rule.id]}.")
            known[rule.id] = line
            self.rules.append(rule)

    def error(self, reason: str) -> UserRulesError:
        """Something is wrong with the preset or the overrides; the message has their line."""
        return self._error(self._line("overrides" if ("overrides",) in self._lines else "preset"), reason)

    def _read(self) -> Any:
        path = self.path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserRulesError(f"{path}: {error}") from error
        if len(text) > MAX_CHARACTERS:
            raise UserRulesError(f"{path}: larger than {MAX_CHARACTERS} characters.")
        try:
            for token in yaml.scan(text, Loader=yaml.SafeLoader):
                if isinstance(token, yaml.AliasToken):
                    raise self._error(token.start_mark.line + 1, "anchors and aliases are not allowed.")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise self._error(line, f"{error.problem}.") from error
        if node is not None:
            self._note(node, ())
        return data

    def _rule(self, fields: Any, where: tuple[str | int, ...]) -> Rule:
        if not isinstance(fields, Mapping):
            raise self._error(self._line(*where), "a rule is a mapping with an id.")
        given = dict(fields)
        if "when" in given:
            given = self._written(given, where)
        try:
            return Rule(**given)
        except ValidationError as error:
            problem = error.errors()[0]
            place = [part for part in problem["loc"] if isinstance(part, (str, int))]
            reason = problem["msg"].removeprefix("Value error, ")
            named = f"{'.'.join(map(str, place))}: " if place else ""
            raise self._error(self._line(*where, *place), f"{named}{reason}") from error
        except TypeError as error:
            raise self._error(self._line(*where), f"{error}.") from error

    def _written(self, given: dict[str, Any], where: tuple[str | int, ...]) -> dict[str, Any]:
        clash = [name for name in ("keys", "condition", "parameters") if name in given]
        if clash:
            raise self._error(self._line(*where, clash[0]), f"a rule with `when` has no {clash[0]}.")
        parameters = {name: given.pop(name) for name in ("when", "clear_when") if name in given}
        for name, text in parameters.items():
            try:
                keys = Expression(str(text)).keys
            except ExpressionError as error:
                raise self._error(self._line(*where, name), f"{name}: {error}") from error
            given.setdefault("keys", keys)
        given.setdefault("message", f"{parameters['when']} since step {{first_step}}.")
        return {"condition": "written", "parameters": parameters, **given}

    def _note(self, node: yaml.Node, path: tuple[str | int, ...]) -> None:
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*path, key.value)
                self._note(value, below)
                self._lines[below] = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._note(value, (*path, index))

    def _line(self, *path: str | int) -> int:
        """The line of a path, or of what holds it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _error(self, line: int, reason: str) -> UserRulesError:
        return UserRulesError(f"{self.path}:{line}: {reason}")
