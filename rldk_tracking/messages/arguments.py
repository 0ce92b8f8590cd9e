"""Checks of what a user gives to a constructor: an error names the argument, the value, and what to write instead.

A value of another type raises a TypeError, one of the right type that cannot be a ValueError. Nothing is converted: a
string that holds a number comes from a configuration that means something else than it says.

Text of unknown origin is made `printable` before it is shown at a terminal, which would obey what it holds.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
N = TypeVar("N", int, float)

PLAIN = (bool, int, float, str, bytes, list, tuple, dict, set)
"""Types of which an error quotes the value. An object's own repr may be long, or hold a secret."""
SHOWN_CHARACTERS = 60
NO_WORDS = ("no", "false", "off", "0", "n")
YES_WORDS = ("yes", "true", "on", "1", "y")

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = SHOWN_CHARACTERS


def shown(value: object) -> str:
    """The value as an error quotes it."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, PLAIN):
        try:
            return _SHORT.repr(value)
        except ValueError:  # of an integer of many thousand digits
            return "a number of very many digits"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def nearest(name: object, names: Iterable[str]) -> str:
    """The end of a sentence about a name that is none of these."""
    names = list(names)
    # A slip of the finger leaves no doubt; further names would be noise.
    close = difflib.get_close_matches(str(name), names, 1, 0.85) or difflib.get_close_matches(str(name), names, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; there are {', '.join(names)}."


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that Python takes for it."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    meant = False if word in NO_WORDS else True if word in YES_WORDS else None
    hint = "." if meant is None else f": write {meant}."
    raise TypeError(f"{name} must be True or False, got {shown(value)}{hint}")


def number(
    name: str, value: object, *, low: float | None = None, above: float | None = None, high: float | None = None
) -> float:
    """A finite number, at least `low` or above `above`, and at most `high`."""
    bounds = _range(low, above, high)
    wanted = f"{name} must be a {'' if bounds else 'finite '}number{bounds}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{wanted}, got {shown(value)}{_as_number(value)}")
    return _within(f"{wanted}, got {shown(value)}.", value, low, above, high)


def whole_number(name: str, value: object, *, low: int | None = None, high: int | None = None) -> int:
    """A whole number from `low` to `high`."""
    wanted = f"{name} must be a whole number{_range(low, None, high)}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{wanted}, got {shown(value)}{_as_number(value, 'int')}")
    return _within(f"{wanted}, got {shown(value)}.", value, low, None, high)


def word(name: str, value: object, words: Sequence[str]) -> str:
    """One of these words."""
    if isinstance(value, str) and value in words:
        return value
    quoted = [f'"{known}"' for known in words]
    close = difflib.get_close_matches(value.lower(), words, 1, 0.7) if isinstance(value, str) else []
    hint = f'; did you mean "{close[0]}"?' if close else "."
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} must be {' or '.join([', '.join(quoted[:-1]), quoted[-1]])}, got {shown(value)}{hint}")


def text(name: str, value: object, what: str, example: str) -> str | None:
    """A text that is not empty, or None where the argument is left out."""
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} must be {what}, got {shown(value)}: write {name}={example}, or leave it out.")


def folder(name: str, value: object, example: str) -> str | None:
    """The path of a folder, which need not exist, as text; None where the argument is left out."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    found = text(name, value, "the path of a folder", example)
    if found is not None and os.path.exists(found) and not os.path.isdir(found):
        raise ValueError(
            f"{name} must be the path of a folder, and {found!r} is a file: write the folder that it is in."
        )
    return found


def listed(name: str, value: object, kind: type[T], example: str) -> list[T]:
    """A list of objects of one class."""
    things = f"{kind.__name__.lower()}s"
    if isinstance(value, kind):
        raise TypeError(f"{name} must be a list, got {shown(value)}: write {name}=[...] around it.")
    if not isinstance(value, (list, tuple)):
        called = _called(value, kind)
        hint = f"[{called}]" if called else example
        raise TypeError(f"{name} must be a list of {things}, got {shown(value)}: write {name}={hint}.")
    for item in value:
        if not isinstance(item, kind):
            hint = _called(item, kind) or f"{name}={example}"
            raise TypeError(f"{name} must hold {things}, got {shown(item)}: write {hint}.")
    return list(value)


def mapping(name: str, value: object, example: str) -> dict[str, Any]:
    """A mapping from text."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, got {shown(value)}: write {example}.")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"the keys of {name} must be strings, got {shown(key)}: write {example}.")
    return dict(value)


def function(name: str, value: object, arguments: Sequence[str]) -> Callable[..., Any]:
    """Something that can be called with so many arguments."""
    call = f"f({', '.join(arguments)})"
    if not callable(value):
        raise TypeError(f"{name} must be callable as {call}, got {shown(value)}.")
    if isinstance(value, type):
        raise TypeError(f"{name} must be callable as {call}, got {shown(value)}: write {value.__name__}(...).")
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):  # some functions that are written in C have none
        return value
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{name} must be callable as {call}, and its signature is {signature}: {error}.") from None
    return value


class NamedArguments:
    """A class that says which argument was meant where it is called with one that it does not have."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Argument that other classes have to what to write here."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        """Checked before `__init__`, whose own error names neither the class nor what there is."""
        known = _parameters(cls)
        if known is not None:
            positional, names = known
            if len(arguments) > len(positional):
                first = arguments[len(positional)]
                if not names:
                    raise TypeError(f"{cls.__name__} takes no arguments, got {shown(first)}.")
                raise TypeError(
                    f"{cls.__name__} takes {shown(first)} by name only: write {cls.__name__}(NAME={shown(first)}) with "
                    f"one of {', '.join(names)}."
                )
            for name in named:
                if name not in names:
                    hint = f": write {cls.elsewhere[name]}." if name in cls.elsewhere else nearest(name, names)
                    raise TypeError(f"{cls.__name__} has no argument {name!r}{hint}")
        return super().__new__(cls)


def _parameters(cls: type) -> tuple[list[str], list[str]] | None:
    """Names that may come by position, and all; those of its base too where it hands on what it does not know itself.

    None where that cannot be told: an own class of the user's may take anything.
    """
    positional: list[str] | None = None
    names: list[str] = []
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        if owner is object:
            return positional or [], names
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        kinds = {parameter.kind for parameter in parameters}
        is_open = inspect.Parameter.VAR_KEYWORD in kinds
        if inspect.Parameter.VAR_POSITIONAL in kinds or (is_open and not owner.__module__.startswith("rldk_tracking.")):
            return None
        in_order = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
        positional = [p.name for p in parameters if p.kind in in_order] if positional is None else positional
        names += [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name not in names]
        if not is_open:
            break
    return positional or [], names


def _called(value: object, kind: type) -> str:
    """A class as the user should have written it; empty for what is none of this kind."""
    return f"{value.__name__}()" if isinstance(value, type) and issubclass(value, kind) else ""


def _range(low: float | None, above: float | None, high: float | None) -> str:
    lower = f"at least {low:g}" if low is not None else f"above {above:g}" if above is not None else ""
    upper = "" if high is None else f"at most {high:g}"
    both = " and ".join(bound for bound in (lower, upper) if bound)
    return f" of {both}" if both.startswith("at") else f" {both}" if both else ""


def _within(complaint: str, value: N, low: float | None, above: float | None, high: float | None) -> N:
    is_finite = isinstance(value, int) or math.isfinite(value)
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    try:
        float(value)
    except OverflowError:
        is_finite = False
    if not is_finite or too_low or (high is not None and value > high):
        raise ValueError(complaint)
    return value


def _as_number(value: object, convert: str = "float") -> str:
    """What to write where a text holds a number."""
    if not isinstance(value, str):
        is_scalar = hasattr(value, "__float__") and not isinstance(value, (bool, int, float))
        return f": convert it with {convert}()." if is_scalar else "."
    try:
        meant = float(value)
    except ValueError:
        return "."
    if not math.isfinite(meant):
        return "."
    plain = str(int(meant)) if meant == int(meant) and abs(meant) < 1e15 else repr(meant)
    if "e" in value.lower() and "." not in value:
        return f", a string: write {plain} (YAML reads an exponent without a point as a string)."
    return f", a string: write {plain} without quotation marks, or convert it with {convert}()."


def printable(text: object) -> str:
    r"""The text on one line, with every character that does not print written as its escape.

    Names and messages come from files: an escape sequence in one could move the cursor and write over a verdict, and a
    line break could begin a line that looks like ours. Line breaks, control characters, invisible and direction-turning
    characters, and halves of surrogate pairs become what a Python literal has for them.

    >>> printable("wte\x1b[2K\nverdict: healthy")
    'wte\\x1b[2K\\nverdict: healthy'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text))
