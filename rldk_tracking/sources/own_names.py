"""Numbers under names of the trainer's or the user's own: those that a rule or a chart asks for, and which never come.

A training may log thousands of names. Only those that are asked for enter its row and its journal, under the name that
they are asked for by; the trainer has them in its tracker already.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from rldk_tracking.sources.logs import number

WAIT_ENTRIES = 10
"""Logs after which a name that has not come is said."""
MOST_KEPT = 2000
"""Logged names that are kept, to name those that are nearest to one that never came."""
LIKE = 0.6
"""Likeness (`difflib`) from which a name is near another."""


def is_own(name: str) -> bool:
    """Whether the name is none of ours."""
    return not name.startswith("rldk/")


def spellings(name: str) -> tuple[str, ...]:
    """How a name may stand in a log: as the trainer writes it, and as transformers' callbacks hand it to a tracker.

    >>> spellings("tools/failures"), spellings("eval/score")
    (('tools/failures', 'train/tools/failures'), ('eval/score', 'train/eval/score', 'eval_score'))
    """
    plain = name.removeprefix("train/")
    found = [plain, f"train/{plain}"]
    for one, other in (("eval_", "eval/"), ("eval/", "eval_")):
        if plain.startswith(one):
            found.append(other + plain.removeprefix(one))
    return tuple(found)


class OwnNames:
    """The names of one run that are not in the catalogue.

    Args:
        names: those that are asked for. Names of ours are left out.
        is_over: whether the run is a past one.

    Attributes:
        missing: those of which no log held a number so far.
    """

    def __init__(self, names: Iterable[str], is_over: bool = False) -> None:
        self._spellings = {name: spellings(name) for name in names if is_own(name)}
        self.missing = set(self._spellings)
        self._logged: set[str] = set()
        self._entries = 0
        self._is_over = is_over

    @property
    def forms(self) -> set[str]:
        """Every spelling that is looked for."""
        return {form for forms in self._spellings.values() for form in forms}

    def read(self, logs: Mapping[str, Any], is_last: bool = False) -> dict[str, float]:
        """The numbers of a log that are asked for, not finite ones included, under the name that asks.

        Args:
            logs: an entry of the trainer's log; empty for a step without one.
            is_last: whether the training ends with it.
        """
        if not self._spellings:
            return {}
        self._is_over = self._is_over or is_last
        self._entries += any(is_own(str(name)) for name in logs)
        if self.missing and len(self._logged) < MOST_KEPT:
            self._logged.update(str(name).removeprefix("train/") for name in logs)
        found = {}
        for name, forms in self._spellings.items():
            value = next((value for form in forms if (value := number(logs.get(form))) is not None), None)
            if value is not None:
                found[name] = value
                self.missing.discard(name)
        return found

    def _may_come(self, name: str) -> bool:
        """Whether it is too early to say that a name never comes; of an evaluation's that is so until there was one."""
        waits = name.startswith("eval") and not any(known.startswith("eval") for known in self._logged)
        return not self._is_over and (waits or self._entries < WAIT_ENTRIES)

    def never(self, asking: Mapping[str, Iterable[str]]) -> list[str]:
        """A sentence for each name that no log had so far, unless it may still come; with the names that are near it.

        Args:
            asking: what asks, such as a rule, to the names.
        """
        return [
            f"{what} reads {name!r}, which was never logged{self._near(name)}"
            for what, names in asking.items()
            for name in names
            if name in self.missing and not self._may_come(name)
        ]

    def _near(self, name: str) -> str:
        near = difflib.get_close_matches(name.removeprefix("train/"), sorted(self._logged), 3, LIKE)
        return f"; near: {', '.join(near)}" if near else ""
