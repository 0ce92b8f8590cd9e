"""The saved view of a W&B project, made by the project's first run, in a process of its own.

A training must not wait for W&B's server, so `python -m rldk_tracking.charts.first_view` asks it. The process is
started when the run has shown what series it has, and the view's address is printed when it is there. A view that the
project has already is left alone: `rldk-tracking charts wandb` brings it up to date.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec

from rldk_tracking.charts.announce import announce
from rldk_tracking.charts.drawing import Task
from rldk_tracking.charts.wandb import ALERTS, OVERVIEW, RefusedError, save_view

logger = logging.getLogger(__name__)

ROWS = 10
"""So many rows show which series a run has."""
END_S = 15.0
"""So long the end of a training waits."""
VARIABLE = "RLDK_VIEW"


class FirstView:
    """Has the view saved, once, after `ROWS` rows or at the end of the run.

    Args:
        server, entity, project: where.
    """

    def __init__(self, server: str, entity: str, project: str) -> None:
        self._place = (server, entity, project)
        self._series = {OVERVIEW, ALERTS}
        self._rows = 0
        self._task: Task | None = None
        self._is_over = find_spec("wandb_workspaces") is None

    def row(self, series: Iterable[str]) -> None:
        """Take the names of a row."""
        if self._is_over:
            return
        self._rows += 1
        self._series.update(series)
        if self._task is None and self._rows >= ROWS:
            self._start()
        elif self._task is not None and self._task.is_done:
            self._say(0.0)

    def at_end(self) -> None:
        """The run is over. Nothing where there was no row."""
        if self._task is None and self._rows and not self._is_over:
            self._start()
        if self._task is not None:
            self._say(END_S)

    def _start(self) -> None:
        try:
            self._task = Task(__name__, [*self._place, sorted(self._series)])
        except OSError as fault:
            self._is_over = True
            logger.info("No view is saved in W&B, because no process can be started: %s", fault)

    def _say(self, timeout_s: float) -> None:
        task, self._task, self._is_over = self._task, None, True
        answer = None if task is None else task.answer(timeout_s)
        if answer:
            announce(answer)


def saved(server: str, entity: str, project: str, series: list[str]) -> str:
    """Have the view; what is to be said of it."""
    os.environ["WANDB_BASE_URL"] = server  # the run may have named another one than the environment
    try:
        view = save_view(entity, project, series, first_only=True)
    except (ImportError, RefusedError) as fault:
        command = f"rldk-tracking charts wandb {entity}/{project}"
        return f"no view of all runs was saved in W&B: {fault} (`{command}` tries again, {VARIABLE}=0 is for none)"
    about = f"saved now, once for the project; {VARIABLE}=0 is for none" if view.outcome == "made" else "a saved view"
    return f"all runs side by side, in W&B: {view.url} ({about})"


if __name__ == "__main__":
    json.dump(saved(*json.load(sys.stdin)), sys.stdout)
