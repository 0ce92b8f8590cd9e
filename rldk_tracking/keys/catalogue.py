"""The catalogue of series: every key that is ever emitted has a row here.

Quantities "over tokens" mean the response tokens of the whole batch, of all ranks, each weighing the same; standard
deviations have n - 1 in the denominator; percentiles interpolate linearly. A quantity that does not exist for a step
has no value there: it is never written as 0 or NaN.
"""

from __future__ import annotations

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
