"""The catalogue of series: every key that is ever emitted has a row here.

Quantities "over tokens" mean the response tokens of the whole batch, of all ranks, each weighing the same; standard
deviations have n - 1 in the denominator; percentiles interpolate linearly. A quantity that does not exist for a step
has no value there: it is never written as 0 or NaN.
"""

from __future__ import annotations

import difflib
import functools
import re

from rldk_tracking.keys import checkpoint, completions, policy, resources, reward, training, verdicts
from rldk_tracking.keys.key import Key

ROWS = tuple(
    key for room in (policy, reward, completions, training, resources, checkpoint, verdicts) for key in room.KEYS
)
CATALOGUE: dict[str, Key] = {key.name: key for key in ROWS}

_PLACEHOLDER = re.compile(r"<\w+>")
_TEMPLATES = [
    (re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(key.name))), key)
    for key in CATALOGUE.values()
    if _PLACEHOLDER.search(key.name)
]


def lookup(name: str) -> Key | None:
    """The row of a key, also of one that a template such as `rldk/reward/function/<name>/mean` stands for."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    return next((key for pattern, key in _TEMPLATES if pattern.fullmatch(name)), None)


SIMILAR = 0.9
"""Likeness (`difflib`) from which an unknown name is taken for a misspelt one."""
_GROUPS = {key.name.split("/")[1] for key in CATALOGUE.values() if not key.name.startswith("rldk/<")}


@functools.lru_cache(maxsize=1024)
def misspelt(name: str, *, in_full: bool = False) -> str | None:
    """What is wrong with the name of a series; None where it may be one.

    Users log numbers under names of their own, so only names in a group of the catalogue, and those all but like one of
    its keys, must be in it.

    Args:
        name: as the user wrote it, with or without its `rldk/`.
        in_full: whether it must have that.
    """
    full = name if name.startswith("rldk/") else f"rldk/{name}"
    if lookup(full) is not None:
        return f"there is no series {name!r}; did you mean {full}?" if in_full and full != name else None
    short = full.removeprefix("rldk/")
    known = {key.removeprefix("rldk/"): key for key in CATALOGUE}
    close = difflib.get_close_matches(short, known, 3, SIMILAR)
    group = short.split("/")[0]
    if not close and group not in _GROUPS:
        return None
    close = close or difflib.get_close_matches(short, [key for key in known if key.split("/")[0] == group], 3, 0.3)
    hint = f"did you mean {' or '.join(known[key] for key in close)}?" if close else "see `rldk-tracking keys`."
    return f"there is no series {name!r}; {hint}"
