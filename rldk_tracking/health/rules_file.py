"""A YAML file of rules, as data: `rules/FAMILY.yaml` for the built-in ones, and a user's own.

`rldk_tracking.health.presets` adds a user's rules to those that the file begins with.

    preset: safe                       # begin with these, or with those of another file; "none" for none
    overrides:
      kl.high: {threshold: 0.2}
    rules:
      - id: team.slow
        when: mean("reward/mean", 50) < 0.1 and not rising("reward/mean", 50)
        severity: warning
        persistence: [3, 4]
        message: Reward is {value:.2f} after fifty rows.
        advice: [Look at the prompts., Lower the learning rate.]
        page: {why: What nobody looks at goes on., causes: [The prompts are too hard.], limit: Seen in ten runs.}
      - id: team.long
        keys: [rldk/length/mean]
        condition: level
        parameters: {threshold: 900, clear: 700}

A rule has either `when` (see `rldk_tracking.health.expression`) or `keys` and `condition`; the other fields are those
of `Rule`. Read with yaml's safe loader; anchors are refused. YAML 1.1 reads `1e-1` as a string: write 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rldk_tracking.health.expression import Expression, ExpressionError
from rldk_tracking.health.rule import Rule, RuleError
from rldk_tracking.messages.arguments import nearest, shown

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 20
"""Of lists and mappings in each other; yaml's loader calls itself for each."""
TOP = ("preset", "overrides", "rules")
OPENING = (
    yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken,
)  # fmt: skip
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

Place = tuple[str | int, ...]
"""Keys and indices from the top of the file."""


class RulesFileError(ValueError):
    """The file is not what it should be; the message has the file and the line."""


class _Constructor(yaml.constructor.SafeConstructor):
    """Says where a value stands that is none, such as the date 2024-99-99."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            raise yaml.MarkedYAMLError(problem=f"no value: {error}", problem_mark=node.start_mark) from error


LOADERS: list[type[Any]] = [type("_Loader", (_Constructor, yaml.SafeLoader), {})]
if yaml.__with_libyaml__:
    # Ten times as fast. What it refuses is read again by the other, whose errors have the better line.
    LOADERS.insert(0, type("_FastLoader", (_Constructor, yaml.CSafeLoader), {}))


class RulesFile:
    """What a file says.

    Args:
        path: the file.

    Attributes:
        preset: what the rules are added to: a preset's name, another file's beside this one, or "none".
        overrides: rule id to fields of the rule.
        rules: the file's own.

    Raises:
        RulesFileError: the file cannot be read, is no YAML, or holds something that is no rule.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Place, int] = {}
        data = self._read()
        self._list: Place = ("rules",) if isinstance(data, dict) else ()
        data = {"rules": data} if isinstance(data, list) else data
        what = f"the file is a list of rules, or has the keys {', '.join(TOP)}"
        if not isinstance(data, dict):
            raise self._error(1, f"{what}; it has {shown(data)}.")
        for key in data:
            if key not in TOP:
                raise self._error(self._line((key,)), f"{what}, not {shown(key)}{nearest(key, TOP)}")
        self.preset: Any = data.get("preset", "safe")
        self.overrides: Any = {} if data.get("overrides") is None else data["overrides"]
        listed = [] if data.get("rules") is None else data["rules"]
        if not isinstance(listed, list):
            raise self._error(self._line(("rules",)), f"rules is a list, got {shown(listed)}.")
        self.rules: list[Rule] = []
        known: dict[str, int] = {}
        for index, fields in enumerate(listed):
            rule, line = self._rule(fields, (*self._list, index)), self._line((*self._list, index))
            if rule.id in known:
                raise self._error(line, f"{rule.id} is also in line {known[rule.id]}.")
            known[rule.id] = line
            self.rules.append(rule)

    def error(self, error: ValueError, place: Place) -> RulesFileError:
        """The same with file and line.

        Args:
            error: what is wrong with the rules of the file and those that it begins with.
            place: where it stands, if the error does not say it.
        """
        places = [place]
        if isinstance(error, RuleError) and error.rule is not None:
            places = self._places(("overrides", error.rule), error.path) + places
            own = [index for index, rule in enumerate(self.rules) if rule.id == error.rule]
            places = [found for index in own for found in self._places((*self._list, index), error.path)] + places
        return self._error(self._line(*places), str(error))

    def _read(self) -> Any:
        path = self.path
        try:
            if not path.is_file():
                raise RulesFileError(f"{path}:1: {'this is no regular' if path.exists() else 'there is no such'} file.")
            if path.stat().st_size > 4 * MAX_CHARACTERS:
                raise RulesFileError(f"{path}:1: larger than {MAX_CHARACTERS} characters.")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RulesFileError(f"{path}:1: it cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise self._error(line, f"this is no UTF-8: {error.reason}.") from error
        if len(text) > MAX_CHARACTERS:
            raise self._error(1, f"larger than {MAX_CHARACTERS} characters.")
        for loader in LOADERS[:-1]:
            try:
                return self._parsed(text, loader)
            except yaml.YAMLError:
                self._lines.clear()
        try:
            return self._parsed(text, LOADERS[-1])
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise self._error(line, f"{error.problem}.") from error
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise self._error(line, f"the character {_character(error)!r} is not allowed in YAML.") from error

    def _parsed(self, text: str, loader: type[Any]) -> Any:
        self._scan(text, loader)
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return None
        self._note(node, ())
        return reader.construct_document(node)

    def _scan(self, text: str, loader: type[Any]) -> None:
        depth = 0
        for token in yaml.scan(text, Loader=loader):
            line = token.start_mark.line + 1
            if isinstance(token, yaml.AliasToken):
                raise self._error(line, "anchors and aliases are not allowed.")
            depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
            if depth > MAX_DEPTH:
                raise self._error(line, f"lists and mappings are nested more than {MAX_DEPTH} deep.")

    def _rule(self, fields: Any, place: Place) -> Rule:
        if not isinstance(fields, Mapping):
            raise self._error(self._line(place), f"a rule is a mapping with an id, got {shown(fields)}.")
        for name in fields:
            if not isinstance(name, str):
                raise self._error(self._line((*place, name)), f"a field's name is a string, got {shown(name)}.")
        given = dict(fields)
        if "when" in given:
            given = self._written(given, place)
        try:
            return Rule(**given)
        except RuleError as error:
            raise self._error(self._line(*self._places(place, error.path)), str(error)) from error

    def _written(self, given: dict[str, Any], place: Place) -> dict[str, Any]:
        clash = [name for name in ("keys", "condition", "parameters") if name in given]
        if clash:
            raise self._error(self._line((*place, clash[0])), f"a rule with `when` has no {clash[0]}.")
        parameters = {name: given.pop(name) for name in ("when", "clear_when") if name in given}
        for name, text in parameters.items():
            if not isinstance(text, str):
                raise self._error(self._line((*place, name)), f"{name} is an expression, got {shown(text)}.")
            try:
                keys = Expression(text).keys
            except ExpressionError as error:
                raise self._error(self._line((*place, name)), f"{name}: {error}") from error
            given.setdefault("keys", keys)
        given.setdefault("message", f"{_literal(parameters['when'])} since step {{first_step}}.")
        return {"condition": "written", "parameters": parameters, **given}

    def _note(self, node: yaml.Node, path: Place) -> None:
        self._lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below, line = (*path, key.value), key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode):
                    if below in self._lines:
                        raise self._error(line, f"{key.value!r} is also in line {self._lines[below]}.")
                    self._note(value, below)
                    self._lines[below] = line
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._note(value, (*path, index))

    @staticmethod
    def _places(rule: Place, path: Place) -> list[Place]:
        """Where a rule's field may stand: parameters also beside the other fields. The last is the rule itself."""
        return [(*rule, *path), (*rule, *path[1:2]), (*rule, *path[:1]), rule]

    def _line(self, *places: Place) -> int:
        """The line of the first of these that there is, or of what holds the last."""
        for place in places:
            if place in self._lines:
                return self._lines[place]
        place = places[-1]
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def _error(self, line: int, reason: str) -> RulesFileError:
        return RulesFileError(f"{self.path}:{line}: {reason}")


def _literal(text: str) -> str:
    """As a message that fills no field."""
    return text.replace("{", "{{").replace("}", "}}")


def _character(error: yaml.reader.ReaderError) -> str:
    return chr(error.character) if isinstance(error.character, int) else str(error.character)
