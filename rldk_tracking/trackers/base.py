"""The adapter that a backend implements: a handful of methods, of which all but `log` default to doing nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rldk_tracking.rollout import RunInfo

if TYPE_CHECKING:
    from rldk_tracking.charts.heatmap import Heatmap
    from rldk_tracking.health.alert import Alert


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one step, with the time (seconds since the epoch) at which they were produced.

    The time is taken once, so that a row that is sent a second time is the same row to a store that compares.
    """

    metrics: Mapping[str, float]
    step: int
    time: float


class UnavailableError(Exception):
    """The backend cannot be reached now; the same call may pass later. `Delivery` retries for as long as it runs."""


class RejectedError(Exception):
    """The backend will not take this call, now or later, or must not be asked twice. `Delivery` does not retry."""


class Tracker(ABC):
    """One backend. It joins the run that is open, never opens a second one, never ends one that it did not start.

    Methods may raise: `Delivery` calls them off the training thread, logs a fault once with its cause, backs off and
    counts. Configuration mistakes raise in the constructor, with the extra to install.
    """

    name: ClassVar[str] = "tracker"
    threaded: ClassVar[bool] = True
    """False where the calls are quick and local, or where the backend must be called on the training thread."""
    on_training_thread: ClassVar[bool] = False
    """True where the backend expects all calls from the thread that trains."""
    takes_rows: ClassVar[bool] = True
    """False where rows are of no interest (a channel for alerts)."""
    repeatable: ClassVar[bool] = True
    """False where a call that is made twice is seen twice. Such a call is not made again when it may have arrived."""
    settles: ClassVar[float] = 0.0
    """Seconds until what the backend took survives a kill of this process. It stays in the spool for so long."""

    @property
    def batch(self) -> int:
        """How many consecutive rows `log_rows` takes at once; more than one only where they are written all or none."""
        return 1

    in_process: ClassVar[bool] = True

    @property
    def joined(self) -> bool:
        """Whether there is a run to write to. While False, `Delivery` keeps what it gets, and `open` is due again."""
        return True

    def open(self, run: RunInfo) -> None:
        """Join the run. Called on the training thread at train begin, and again by a tracker that found no run yet."""
        return None

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write one row. Every value is a finite float; keys are `rldk/...`."""

    def log_rows(self, rows: Sequence[Row]) -> None:
        """Write at most `batch` rows, in order. Overridden by a backend that stores a row's time or writes in bulk."""
        for row in rows:
            self.log(row.metrics, row.step)

    def hold(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep what is known of a step until `let_go`. Called on the training thread, where calls do not wait."""
        return None

    def let_go(self) -> None:
        """The oldest step that is held has its row, or will have none. From whatever thread."""
        return None

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Write a table (samples, worst layers)."""
        return None

    def log_figure(self, key: str, svg: str, step: int) -> None:
        """Write a picture, as an SVG document."""
        return None

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        """Show a picture of rows by steps that grows with the run. It takes the place of the key's earlier one."""
        return None

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        """Write what a saved checkpoint was found to be, where the backend keeps models apart from runs."""
        return None

    def alert(self, alert: Alert) -> None:
        """Bring an alert, or its end, to people."""
        return None

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        """The run's state: "running", "warning", "critical", "finished", "stopped", "crashed", with the last values."""
        return None

    def url(self) -> str | None:
        """Address of the run's page, where one is known."""
        return None

    def address(self) -> Mapping[str, str]:
        """What a later process needs to write into the same run (ids and places, no secrets). Kept in the journal."""
        return {}

    def last_step(self) -> int | None:
        """The last step of which the joined run holds a row, 0 where it surely holds none, None where it cannot say."""
        return None

    def missing(self, records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Of calls that may or may not have arrived (see `journal`), those that are known not to have arrived."""
        return []

    def close(self) -> None:
        """Flush. Called once, after the last `log`."""
        return None
