"""What is said of the runs that trackers join: there is none, or another training has written into it before.

transformers' callbacks join the run that is open, and so do ours: SFT and then GRPO in one notebook are one run, and
each series has two values at a step. Nobody is stopped from that, but it is said, and the later rows are marked.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/system/training | trainings | host | max over ranks
        Which training a row is of, where several of one process write into one tracker's run; absent in the first.
        = number of trainings that have begun to write into the run
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rldk_tracking.journal.offset import Destination
from rldk_tracking.trackers.base import Tracker

logger = logging.getLogger(__name__)

KEY = "rldk/system/training"
"""Number of a training in its tracker's run, from the second on."""
TABLE = "rldk/trainings"
COLUMNS = ("training", "trainer", "began (UTC)")
UNSTABLE = ("log",)
"""Parts of an address that are new with each client of one run."""


@dataclass(frozen=True)
class Begun:
    """One training: the class of its trainer, and when it began."""

    trainer: str
    time: str


_TRAININGS: dict[tuple[str, ...], list[Begun]] = {}


class Trainings:
    """What one training knows of those that wrote into its trackers' runs before.

    Attributes:
        marks: what its rows carry, where there are others: `KEY`.
    """

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}

    def join(self, tracker: Tracker, trainer: str, resumes: bool, publish: Callable[..., None]) -> None:
        """A tracker has joined its run; where that holds another training's rows already, say so and show all, once.

        Args:
            tracker: one that does not say which run that is, or takes no rows, is left alone.
            trainer: class of the trainer.
            resumes: whether the training goes on in the series that are there.
            publish: writes `TABLE`.
        """
        address = {name: value for name, value in tracker.address().items() if name not in UNSTABLE}
        if not address or not tracker.takes_rows:
            return
        run = (tracker.name, *(f"{name}={value}" for name, value in sorted(address.items())))
        known = _TRAININGS.setdefault(run, [])
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
        known.append(Begun(trainer, time))
        number = len(known)
        if resumes or number <= self.marks.get(KEY, 1.0):
            return
        self.marks[KEY] = float(number)
        logger.warning(
            "rldk: the %s run already holds the rows of an earlier training of this process (%s). This one (%s) begins "
            "at step 0 again, so that series have two values at a step: its rows carry %s = %d. A run of its own for "
            "each training keeps them apart.",
            *(tracker.name, known[-2].trainer, trainer, KEY, number),
        )
        publish("log_table", TABLE, COLUMNS, [[index, one.trainer, one.time] for index, one in enumerate(known, 1)], 0)


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
