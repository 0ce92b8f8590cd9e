"""Series and alerts of a past run, written into a tracker after the fact."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rldk_tracking.history.reading import read
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, UnavailableError
from rldk_tracking.trackers.registry import backends

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rldk_tracking.history.replay import ReplayResult


class NotWrittenError(Exception):
    """The tracker did not take a run; the message says which and why."""


def write_back(source: str, result: ReplayResult, backend: str, aliases: Mapping[str, str] | None = None) -> None:
    """Write a run's series and alerts into the run that it was read from, else into a new one.

    Args:
        source: as for `replay`. An `mlflow:RUN_ID` is that run: it gets the series that it does not have yet.
        result: what the rules said of it.
        backend: name of one that has `Backend.written_back`.
        aliases: as for `replay`.

    Raises:
        NotWrittenError: the tracker cannot be reached or does not take it.
        ImportError: its client is not installed.
    """
    try:
        with backends()[backend].written_back(source) as (tracker, known):
            tracker.open(RunInfo(name=source, trainer="replay"))
            for entry in read(source, aliases).entries:
                row = {key: value for key, value in entry.row.items() if key not in known}
                if row:
                    tracker.log_rows([Row.of(row, entry.step, time.time())])
            for _, alert in result.alerts:
                tracker.alert(alert)
            tracker.status(result.verdict if result.verdict in ("warning", "critical") else "finished", {}, 0)
            tracker.close()
    except (UnavailableError, RejectedError) as error:
        raise NotWrittenError(f"{source}: not written into {backend}: {error}") from error
