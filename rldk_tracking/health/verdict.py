"""The verdict on a run in one word, and how much was judged for it. Unknown is not healthy.

A run is healthy where nothing is wrong *and* enough was looked at: a rule of the core has judged, and of the rules that
have data at least as many have judged as are still warming up. Four rows of a log pass neither test, whatever is in
them. One function decides, for a replay, a report, a run's page and the line at a training's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rldk_tracking.health.alert import Alert, Severity
from rldk_tracking.health.rule import is_core

if TYPE_CHECKING:
    from rldk_tracking.health.engine import Engine

Verdict = Literal["critical", "warning", "healthy", "unknown"]
EXIT_CODES: dict[Verdict, int] = {"healthy": 0, "warning": 1, "critical": 2, "unknown": 4}
"""3 is what cannot be read."""
_KEYS = {
    "judged": "rldk/alerts/rules_judged",
    "warming_up": "rldk/alerts/rules_warming_up",
    "without_data": "rldk/alerts/rules_without_data",
    "core_judged": "rldk/alerts/core_rules_judged",
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many rules have judged: numbers, which come with every row.

    Attributes:
        judged: rules that have seen enough of their data to fire.
        warming_up: rules that have data, but not enough yet.
        without_data: rules whose data never came.
        core_judged: how many of `judged` are of the core.
    """

    judged: int
    warming_up: int
    without_data: int
    core_judged: int

    @classmethod
    def of_row(cls, row: Mapping[str, float]) -> Coverage | None:
        """Out of a row; None where it does not say."""
        if any(key not in row for key in _KEYS.values()):
            return None
        return cls(**{name: int(row[key]) for name, key in _KEYS.items()})

    @property
    def is_enough(self) -> bool:
        """Whether silence means health."""
        return self.core_judged > 0 and self.judged >= self.warming_up

    def sentence(self, never_in_logs: int = 0) -> str:
        """ "judged 12, warming up 8, no data 26 (of which 9 cannot come from a log)"."""
        absent = f" (of which {never_in_logs} cannot come from a log)" if never_in_logs else ""
        return f"judged {self.judged}, warming up {self.warming_up}, no data {self.without_data}{absent}"


@dataclass(frozen=True, slots=True)
class Judged:
    """Ids of the rules by how far they have come; each is in one of these.

    Attributes:
        judged, warming_up, without_data: see `Coverage`.
        failed: rules that raised and are switched off, see `Engine.failed`. An alert says so.
    """

    judged: tuple[str, ...]
    warming_up: tuple[str, ...]
    without_data: tuple[str, ...]
    failed: tuple[str, ...] = ()

    @classmethod
    def by(cls, engine: Engine) -> Judged:
        """As of the last row."""
        watches = [watch for watch in engine.watches if watch.rule.id not in engine.failed]
        return cls(
            tuple(watch.rule.id for watch in watches if watch.has_judged),
            tuple(watch.rule.id for watch in watches if watch.known and not watch.has_judged),
            tuple(watch.rule.id for watch in watches if not watch.known),
            tuple(engine.failed),
        )

    @property
    def coverage(self) -> Coverage:
        """Their numbers."""
        core = sum(is_core(rule.partition(".")[0]) for rule in self.judged)
        return Coverage(len(self.judged), len(self.warming_up), len(self.without_data), core)


def verdict_of(severities: Iterable[Severity], is_enough: bool) -> Verdict:
    """The worst of some alerts; without one, whether the run is healthy or nobody knows.

    Args:
        severities: of alerts that fired. Information is no fault.
        is_enough: whether so much was judged that silence means health, see `Coverage.is_enough`.
    """
    found = set(severities)
    if "critical" in found:
        return "critical"
    if "warning" in found:
        return "warning"
    return "healthy" if is_enough else "unknown"


def verdict_on(alerts: Iterable[Alert], row: Mapping[str, float]) -> Verdict:
    """The verdict on a whole run, as that of a replay: of the worst alert that fired, over or not.

    Args:
        alerts: its transitions.
        row: the last one, which says how much was judged.
    """
    coverage = Coverage.of_row(row)
    fired = (alert.severity for alert in alerts if alert.state == "firing")
    return verdict_of(fired, coverage is not None and coverage.is_enough)
