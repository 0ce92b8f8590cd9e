"""Where the judged rows of one run go: its trackers, the ledger of its alerts, the actions of its rules.

It lives until the process ends, to say how a run ended that nobody closed and to send what waits. So it knows neither
the run nor the trainer: a training that was broken off must not keep its model in memory until then.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from rldk_tracking.background import Background
from rldk_tracking.charts.heatmaps import Heatmaps
from rldk_tracking.fan_out import FanOut
from rldk_tracking.health.rules import Rule
from rldk_tracking.isolation import Shield
from rldk_tracking.journal.actions import Acting
from rldk_tracking.ledger import Ledger
from rldk_tracking.rollout import RunInfo
from rldk_tracking.settings import Settings
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert

logger = logging.getLogger(__name__)


class Outlet:
    """The way out of one run on this rank; on others than rank 0 nothing comes out of it.

    Args:
        settings: the run's, which monitors that join later may add to.

    Attributes:
        background: does beside the training what need not be waited for.
        fan_out: the trackers; none before `open`.
        acting: the actions of the rules; none before `open`.
        is_open: whether the run has begun.
        closed: whether it is over.
        latest: the last row, its step and its numbers.
    """

    def __init__(self, settings: Settings) -> None:
        self.background = Background(Shield())
        self.fan_out = FanOut([], None)
        self.acting = Acting([])
        self.is_open = False
        self.closed = False
        self.latest: tuple[int | None, dict[str, float]] = (None, {})
        self._settings = settings
        self._writes = False
        self._status = ""
        self._ledger = Ledger(None)
        self._heatmaps = Heatmaps()

    def open(
        self,
        rules: list[Rule],
        info: RunInfo | None = None,
        find: Callable[[], list[Tracker]] | None = None,
        resumed_at: int | None = None,
    ) -> None:
        """The run has begun.

        Args:
            rules: whose actions are taken.
            info: what the trackers are told.
            find: gives the trackers; None on other ranks than 0.
            resumed_at: the checkpoint's step where the training goes on from one.
        """
        self.is_open = True
        info = RunInfo() if info is None else info
        self.acting = Acting(rules, self._settings.strict)
        if find is not None:
            self._writes = True
            folder = self._settings.output_dir or info.output_dir
            self._ledger = Ledger(folder, resumed_at)
            self.fan_out = FanOut(find(), folder, resumed_at)
            self.fan_out.open(info)
            self.acting.open(info)
            self.set_status("running", resumed_at or 0)
            self.fan_out.wake()
        # After the trackers' own, so that it is called before them.
        atexit.register(self._at_exit)

    def health(self) -> dict[str, float]:
        """What the trackers do at present; rank 0's own affair, and no reason for a stop."""
        if not self.fan_out:
            return {}
        return {
            "rldk/system/tracker_errors": float(self.fan_out.errors),
            "rldk/system/trackers_down": float(self.fan_out.down),
        }

    def take(self, step: int, row: Mapping[str, float], alerts: Iterable[Alert]) -> list[Alert]:
        """Keep a judged row and what was found in it for the trackers, which `tell` hands them; returns its alerts."""
        earlier = self.latest[1] if self.latest[0] == step else {}
        self.latest = (step, earlier | dict(row))
        if not self._writes:
            return []
        row = news_of(row, earlier)
        if row:
            self.fan_out.store("log", row, step)
        news = [alert for alert in alerts if self._ledger.is_news(alert)]
        for alert in news:
            log = logger.info if alert.state == "resolved" or alert.severity == "info" else logger.warning
            log("%s (step %d): %s", alert.title, alert.step, alert.message)
            self.fan_out.store("alert", alert)
        return news

    def tell(self, alerts: Iterable[Alert], listeners: Iterable[Callable[[Alert], None]]) -> None:
        """Have the trackers handed what is kept for them, and alerts to actions and listeners; it may take its time."""
        self.fan_out.wake()
        listeners = list(listeners)
        for alert in alerts:
            self.acting.tell(alert)
            for listener in listeners:
                listener(alert)

    def draw(self, step: int, scores: ArrayLike | None, gradients: Mapping[str, float] | None) -> None:
        """What a step adds to the heat-maps, which go out now and then."""
        if self._writes:
            self._heatmaps.take(step, scores, gradients)
            if self._heatmaps.due:
                self._send_heatmaps(step)

    def set_status(self, status: str, step: int) -> None:
        """How the run is, told where that has changed."""
        if self._writes and status != self._status:
            self._status = status
            self.fan_out.store("status", status, dict(self.latest[1]), step)

    def close(self, status: str, step: int | None = None) -> None:
        """Judge what is under way, flush the trackers within the time limit, and leave nothing behind."""
        if self.closed:
            return
        self.closed = True
        self.background.close()
        self._send_heatmaps(self.latest[0] or 0)
        self.set_status(status, step if step is not None else self.latest[0] or 0)
        self.fan_out.close(self._settings.close_timeout)
        self.acting.close(self._settings.close_timeout)
        self._ledger.close()
        atexit.unregister(self._at_exit)

    def _send_heatmaps(self, step: int) -> None:
        for key, heatmap in self._heatmaps.made().items():
            self.fan_out.put("log_heatmap", key, heatmap, step)

    def _at_exit(self) -> None:
        # The trackers' own time limit at exit is short, and nobody else is going to tell how this ended.
        self.close("crashed")


def news_of(row: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """What a step's second row says that its first did not: a store keeps both points, and one is one too many."""
    if not earlier:
        return dict(row)
    changed = {key: value for key, value in row.items() if earlier.get(key) != value}
    return {key: value for key, value in changed.items() if key not in earlier or not key.startswith("rldk/system/")}
