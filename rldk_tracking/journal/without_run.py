"""What is said of trackers that find no run to write to, as where nobody has started one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from rldk_tracking.journal.target import Destination

logger = logging.getLogger(__name__)


def say_no_run(destinations: Iterable[Destination], journal: Path | None) -> None:
    """At the first step: what to do, and what becomes of the rows until then.

    Args:
        destinations: trackers without a run.
        journal: the run's file, None where nothing is written.
    """
    for destination in destinations:
        rows = "gets no rows" if _is_lost(destination, journal) else f"has its rows in {journal} alone"
        help_ = destination.tracker.how_to_join
        logger.warning("%s has no run to write to, and until it has one it %s. %s", destination.id, rows, help_)


def say_never_a_run(destinations: Iterable[Destination], journal: Path | None) -> None:
    """At the end, of trackers that never had one."""
    for destination in destinations:
        rows = "it got no rows"
        if not _is_lost(destination, journal):
            rows = f"its rows are in {journal}; `rldk-tracking sync {journal} --run-id RUN` sends them to a run"
        logger.warning("%s never had a run to write to: %s.", destination.id, rows)


def _is_lost(destination: Destination, journal: Path | None) -> bool:
    """Whether the rows until then never come there."""
    return destination.tracker.in_process or journal is None
