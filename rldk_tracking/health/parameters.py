"""Types and ranges of the parameters of conditions, so that a wrong one is an error before the run and not in it.

The types are those of the constructors of `rldk_tracking.health.conditions`. A range belongs to a name, which means the
same in every condition; what a limit of a series may be is said by the series.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.keys import lookup
from rldk_tracking.messages.arguments import flag, mapping, nearest, number, shown, text, whole_number, word

RANGES: dict[str, tuple[float, float | None]] = {
    **dict.fromkeys(("z", "floor", "floor_alone", "product", "pay", "lag", "sure"), (0, None)),
    **dict.fromkeys(("share", "whole", "critical_share", "capped_share", "relative", "settled", "change"), (0, None)),
    **dict.fromkeys(("exact", "at_once", "above", "sequence_above", "soft", "blind", "kl", "limit"), (0, None)),
    **dict.fromkeys(
        ("seconds", "latest", "capped", "unless_improving", "sequence_scale", "steps", "steady", "trend", "gain"),
        (0, None),
    ),
    **dict.fromkeys(("often", "nearly_all", "negligible", "improbable", "tied"), (0, 1)),
    **dict.fromkeys(("length_corr", "disagreement"), (-1, 1)),
    **dict.fromkeys(("span", "ratio", "critical_ratio", "factor", "sudden", "perplexity", "length_growth"), (1, None)),
    **dict.fromkeys(("minimum", "early", "patience", "accept_after", "rows", "block", "blocks", "same"), (1, None)),
    "window": (2, None),
    "remains": (0, 0.99),
    "back": (0, 1),
}
"""Parameter to the least and the largest value that it may have."""
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


def parameters_of(condition: str) -> tuple[str, ...]:
    """Names of a condition's parameters."""
    return tuple(_types(condition))


def takes_none(condition: str, parameter: str) -> bool:
    """Whether None is a value of the parameter."""
    return type(None) in get_args(_types(condition)[parameter])


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
    known = _types(condition)
    for name in (*parameters, *given):
        if name not in known:
            raise ParameterError(name, f"condition {condition!r} has no parameter {name!r}{nearest(name, known)}")
    for name, value in parameters.items():
        try:
            _check(name, value, known[name])
            if name in LIMITS and value is not None:
                _check_limit(name, value, keys, parameters.get("direction"))
        except TypeError as error:
            raise ParameterError(name, str(error)) from None
        except ValueError as error:
            raise ParameterError(name, str(error)) from None
    window, minimum = (_value(condition, parameters, name) for name in ("window", "minimum"))
    if window is not None and minimum is not None and minimum > window:
        raise ParameterError(
            "minimum", f"minimum must be at most window, which is {window}, or nothing is ever judged, got {minimum}."
        )
    for name in _required(condition):
        if name not in parameters:
            raise ParameterError(name, f"condition {condition!r} needs {name}: write parameters={{{name!r}: ...}}.")


@functools.cache
def _types(condition: str) -> dict[str, Any]:
    constructor = CONDITIONS[condition].__init__
    hints = get_type_hints(constructor)
    return {name: hints[name] for name in inspect.signature(constructor).parameters if name not in ("self", "keys")}


def _value(condition: str, parameters: Mapping[str, Any], name: str) -> int | None:
    """A parameter's value, or its default; None where the condition does not have it."""
    if name not in _types(condition):
        return None
    found = parameters.get(name, inspect.signature(CONDITIONS[condition].__init__).parameters[name].default)
    return found if isinstance(found, int) else None


@functools.cache
def _required(condition: str) -> tuple[str, ...]:
    parameters = inspect.signature(CONDITIONS[condition].__init__).parameters
    return tuple(name for name in _types(condition) if parameters[name].default is inspect.Parameter.empty)


def _check(name: str, value: Any, wanted: Any) -> None:
    kind, inner = get_origin(wanted), get_args(wanted)
    low, high = RANGES.get(name, (None, None))
    if kind in (Union, types.UnionType):
        if value is not None:
            (wanted,) = [one for one in inner if one is not type(None)]
            _check(name, value, wanted)
    elif kind is Literal:
        word(name, value, inner)
    elif wanted is bool:
        flag(name, value)
    elif wanted is int:
        whole_number(name, value, low=None if low is None else int(low), high=None if high is None else int(high))
    elif wanted is float:
        number(name, value, low=low, high=high)
    elif wanted is str:
        if text(name, value, "a string", '"..."') is None:
            raise TypeError(f"{name} must be a string, got None.")
    elif kind is tuple:
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
