"""The adapter that a backend implements: a handful of methods, of which all but `log` default to doing nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rldk_tracking.messages.arguments import NamedArguments
from rldk_tracking.rollout import RunInfo

if TYPE_CHECKING:
    from rldk_tracking.charts.heatmap import Heatmap
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.trackers.records import Call


@dataclass(frozen=True, slots=True)
class Row:
    """The metrics of one step, with the time (seconds since the epoch) at which they were produced.

    The time is taken once, so that a row that is sent a second time is the same row to a store that compares.
    """

    metrics: Mapping[str, float]
    step: int
    time: float
    own: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the trainer logged under names of its own, and rules or charts ask for. The trainer has them in its
    trackers already: they are for pictures, and for files of ours."""

    @classmethod
    def of(cls, numbers: Mapping[str, float], step: int, time: float) -> Row:
        """A step's numbers, told apart by their names.

        >>> Row.of({"rldk/reward/mean": 0.5, "tools/call_frequency": 1.0}, step=3, time=0.0).own
        {'tools/call_frequency': 1.0}
        """
        own = {name: value for name, value in numbers.items() if not name.startswith("rldk/")}
        return cls({name: value for name, value in numbers.items() if name not in own}, step, time, own)

    @property
    def all(self) -> dict[str, float]:
        """Both."""
        return {**self.metrics, **self.own}


class UnavailableError(Exception):
    """The backend cannot be reached now; the same call may pass later, and is repeated for as long as there is time."""


class RefusedError(UnavailableError):
    """The backend does not take the credentials of this process; those of another may be taken."""


class RejectedError(Exception):
    """The backend will not take this call, now or later, or must not be asked twice. It is not repeated."""


class LostAnswerError(RejectedError):
    """The call may have arrived, and a second one would be seen twice."""


class Tracker(NamedArguments, ABC):
    """One backend. It joins the run that is open, never opens a second one, never ends one that it did not start.

    Methods may raise: whoever calls them keeps faults from the training, logs each kind once with its cause and counts.
    Configuration mistakes raise in the constructor, with the extra to install.
    """

    name: ClassVar[str] = "tracker"
    in_process: ClassVar[bool] = True
    """False where the calls are made by a process of their own, the courier, out of the run's journal. Such a tracker
    has `address`, `secrets` and `resume`."""
    ends_with_trainer: ClassVar[bool] = False
    """True where the trainer's own callback ends the backend's run at train end. What came later would open another."""
    takes_rows: ClassVar[bool] = True
    """False where rows are of no interest (a channel for alerts)."""
    repeatable: ClassVar[bool] = True
    """False where a call that is made twice is seen twice. Such a call is not made again when it may have arrived."""
    how_to_join: ClassVar[str] = ""
    """What the user can do where there is no run to join, as a sentence."""
    rows_per_call: ClassVar[int] = 1
    """How many consecutive rows `log_rows` takes at once; more than one only where they are written all or none."""

    @property
    def joined(self) -> bool:
        """Whether there is a run to write to. While False, `open` is due again."""
        return True

    def open(self, run: RunInfo) -> None:
        """Join the run. Called on the training thread at train begin, and again by a tracker that found no run yet."""
        return None

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> Tracker:
        """A tracker for the run of another process, whose `address()` and `secrets()` these are; `open` it then.

        The run is ended at `close` only where a tracker made it.

        Raises:
            ValueError: they name no run.
            OSError: the backend cannot be reached.
        """
        raise ValueError(f"a {cls.name} tracker cannot be continued by another process")

    def restore(self, past: Iterable[Call]) -> None:
        """Take into memory what was written to the run before. Nothing of it is written again."""
        return None

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write one row. Every value is a finite float; keys are `rldk/...`."""

    def log_rows(self, rows: Sequence[Row]) -> None:
        """Write at most `rows_per_call` rows, in order. Overridden where a row's time is stored, or rows go in bulk."""
        for row in rows:
            if row.metrics:
                self.log(row.metrics, row.step)

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
        """Bring an alert, or its end, to people; to a record only where `alert.notify` is off."""
        return None

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        """The run's state: "running", "warning", "critical", "finished", "stopped", "crashed", with the last values."""
        return None

    def url(self) -> str | None:
        """Address of the run's page, where one is known."""
        return None

    def address(self) -> Mapping[str, str]:
        """What a later process needs to write into the same run: ids and places, no secrets. Kept in the journal."""
        return {}

    def secrets(self) -> Mapping[str, str]:
        """What it needs beside that, handed to it through a pipe and never written down."""
        return {}

    def adopt(self, to: Mapping[str, str]) -> None:
        """Take over what the courier's tracker found out about the run, its `address()`."""
        return None

    def last_step(self) -> int | None:
        """The last step of which the joined run holds a row, 0 where it surely holds none, None where it cannot say."""
        return None

    def flush(self) -> None:
        """Write what was held back to go out with more of its kind. Called now and then, and before `close`."""
        return None

    def close(self) -> None:
        """Flush. Called once, after the last call."""
        return None
