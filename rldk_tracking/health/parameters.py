"""The parameters of conditions: types, ranges and meanings, so that a wrong one is an error before the run, not in it.

They are declared as the annotated fields of the conditions, see `rldk_tracking.health.conditions.base`. What a limit of
a series may be is said by the series.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.conditions.base import Range
from rldk_tracking.messages.arguments import flag, mapping, nearest, number, shown, text, whole_number, word
from rldk_tracking.metrics.keys import lookup

LIMITS = ("threshold", "clear", "critical", "beyond")
"""Parameters that are values of the rule's series."""


class ParameterError(ValueError):
    """A parameter cannot be.

    Attributes:
        parameter: its name.
    """

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a condition.

    Attributes:
        kind: its type, without None.
        takes_none: whether None is a value of it.
        default: `dataclasses.MISSING` where a rule must give it.
        meaning: in words.
        range: the least and the largest value.
    """

    kind: Any
    takes_none: bool
    default: Any
    meaning: str
    range: Range

    @property
    def is_required(self) -> bool:
        """Whether a rule must give it."""
        return self.default is dataclasses.MISSING


@functools.cache
def parameters_of(condition: str) -> Mapping[str, Parameter]:
    """Name to parameter of a condition."""
    kind = CONDITIONS[condition]
    hints = get_type_hints(kind, include_extras=True)
    fields = [each for each in dataclasses.fields(kind) if each.init and each.name != "keys"]
    return {each.name: _parameter(hints[each.name], each.default) for each in fields}


def _parameter(hint: Any, default: Any) -> Parameter:
    meaning, span, takes_none = "", Range(None), False
    while get_origin(hint) in (Annotated, Union, types.UnionType):
        if get_origin(hint) is Annotated:
            hint, *notes = get_args(hint)
            meaning = next((note for note in reversed(notes) if isinstance(note, str)), meaning)
            span = next((note for note in notes if isinstance(note, Range)), span)
        else:
            takes_none = True
            (hint,) = [one for one in get_args(hint) if one is not type(None)]
    return Parameter(hint, takes_none, default, meaning, span)


def check_parameters(condition: str, parameters: Mapping[str, Any], keys: Sequence[str], given: Sequence[str]) -> None:
    """Look at every parameter of a rule.

    Args:
        condition: its condition's name.
        parameters: name to value.
        keys: the series that it judges.
        given: parameters that a setting of the run may give.

    Raises:
        ParameterError: one is unknown, missing, of another type or out of its range.
    """
    known = parameters_of(condition)
    for name in (*parameters, *given):
        if name not in known:
            raise ParameterError(name, f"condition {condition!r} has no parameter {name!r}{nearest(name, known)}")
    for name, value in parameters.items():
        if value is None and known[name].takes_none:
            continue
        try:
            _check(name, value, known[name])
            if name in LIMITS:
                _check_limit(name, value, keys, parameters.get("direction"))
        except (TypeError, ValueError) as error:
            raise ParameterError(name, str(error)) from None
    if {"window", "minimum"} <= set(known):
        window, minimum = (parameters.get(name, known[name].default) for name in ("window", "minimum"))
        if minimum > window:
            wanted = f"at most window, which is {window}, or nothing is ever judged"
            raise ParameterError("minimum", f"minimum must be {wanted}, got {minimum}.")
    for name, parameter in known.items():
        if parameter.is_required and name not in parameters:
            raise ParameterError(name, f"condition {condition!r} needs {name}: write parameters={{{name!r}: ...}}.")


def _check(name: str, value: Any, parameter: Parameter) -> None:
    kind, low, high = parameter.kind, parameter.range.low, parameter.range.high
    if get_origin(kind) is Literal:
        word(name, value, get_args(kind))
    elif kind is bool:
        flag(name, value)
    elif kind is int:
        whole_number(name, value, low=None if low is None else int(low), high=None if high is None else int(high))
    elif kind is float:
        number(name, value, low=low, high=high)
    elif kind is str:
        if text(name, value, "a string", '"..."') is None:
            raise TypeError(f"{name} must be a string, got None.")
    elif get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise TypeError(f"{name} must be a list of strings, got {shown(value)}.")
    else:  # of series to limits
        for key, limit in mapping(name, value, f'{name}={{"rldk/...": 0.5}}').items():
            number(f"{name}[{key!r}]", limit)


def _check_limit(name: str, value: float, keys: Sequence[str], direction: str | None) -> None:
    """A limit beyond the values that its series can have is never passed, or always."""
    for key in keys:
        row = lookup(key)
        if row is None:
            continue
        if value < 0 and (row.lowest == 0 or (key.startswith("rldk/kl/") and direction not in ("below", "down"))):
            raise ValueError(f"{name} must be at least 0, as {key} is, got {shown(value)}.")
        if row.highest is not None and value > row.highest:
            raise ValueError(
                f"{name} must be at most {row.highest:g}, as {key} is, got {shown(value)}: it is a share, not per cent."
            )
