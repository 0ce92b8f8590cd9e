"""Trackio: series and alerts in the run that is open in this process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import RejectedError, Tracker

STEP = "train/global_step"
"""What transformers gives to its own rows; Trackio can draw over it."""

_LEVELS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}


class TrackioTracker(Tracker):
    """Writes to the Trackio run that transformers, or `trackio.init`, has opened; never opens or ends one.

    Each row names its step. Without, Trackio counts all rows of the run, TRL's timings included.

    Raises:
        ImportError: trackio is not installed.
    """

    name: ClassVar[str] = "trackio"
    ends_with_trainer: ClassVar[bool] = True
    how_to_join: ClassVar[str] = 'Give the trainer report_to="trackio", or call trackio.init() before train().'

    def __init__(self) -> None:
        try:
            import trackio
        except ImportError as error:
            raise ImportError("TrackioTracker needs trackio: pip install trackio") from error
        self._trackio: Any = trackio

    @property
    def joined(self) -> bool:
        return self._run() is not None

    def open(self, run: RunInfo) -> None:
        """The run is looked for at each call: it may be opened later, and finished at any time."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._joined_run().log(dict(metrics) | {STEP: step}, step=step)

    def alert(self, alert: Alert) -> None:
        """Shown on Trackio's page of alerts, and sent to the webhook that Trackio is set to.

        Trackio gives it the step of the last row, and prints it. One that is not for people (`Alert.notify`) is left
        out.
        """
        if not alert.notify:
            return
        run = self._joined_run()
        level = "INFO" if alert.state == "resolved" else _LEVELS[alert.severity]
        text = f"{alert.message} {alert.advice}" if alert.state == "firing" else alert.message
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stdout):
            run.alert(title=alert.title, text=text.strip(), level=self._trackio.AlertLevel[level])

    def _run(self) -> Any:
        return self._trackio.context_vars.current_run.get()

    def _joined_run(self) -> Any:
        run = self._run()
        if run is None:
            raise RejectedError("no Trackio run is open")
        return run


class TrackioBackend(Backend):
    """See `TrackioTracker`."""

    kind = TrackioTracker
    title: ClassVar[str] = "Trackio"
    packages: ClassVar[tuple[str, ...]] = ("trackio",)
    install: ClassVar[str] = "pip install trackio"
    callback: ClassVar[str] = "TrackioCallback"

    def is_open(self) -> bool:
        trackio = sys.modules.get("trackio")
        return trackio is not None and trackio.context_vars.current_run.get() is not None
