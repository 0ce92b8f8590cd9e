"""What commands and later processes know of a backend, apart from the one run that a `Tracker` writes to."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.messages.packages import install_line
from rldk_tracking.trackers.base import Tracker


@dataclass(frozen=True)
class PastRun:
    """A run out of a backend's store.

    Attributes:
        entries: what was logged, in order, each with its "step".
        settings: of the run.
    """

    entries: list[dict[str, Any]]
    settings: dict[str, Any]


class DemoStore(ABC):
    """A place for the runs of `rldk-tracking demo`, below a folder."""

    report_to: ClassVar[str] = "none"
    """What the trainer is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def prepare(self) -> None:
        """Set up the store before the first run.

        Raises:
            ImportError: the backend is not installed; the message names the extra.
        """

    def trackers(self, name: str) -> list[Tracker] | None:
        """The trackers of a run; None for those that `report_to` names."""
        return None

    @abstractmethod
    def finished(self, name: str) -> None:
        """Note where the run that has just ended is to be found."""

    @abstractmethod
    def how_to_open(self) -> list[str]:
        """Lines for the terminal: the command, then an address or a file for each run."""


class Backend:
    """One backend, as the registry has it. A backend can do what it overrides; only `kind` must be there.

    Runs are joined in one of two ways: a callback of the trainer's `report_to` stands for one (`callback`, `joins`), or
    one is open in this process (`is_open`). The second counts where there is no trainer, and for a backend that
    `report_to` does not know.
    """

    kind: type[Tracker]
    """Its tracker, whose `name` is the backend's: in the journal, on the command line, before a past run's colon."""
    title: ClassVar[str] = ""
    """For people; by default the name."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions of which `doctor` names the versions. The first one is needed."""
    extra: ClassVar[str] = ""
    """The extra of this package that brings it."""
    install: ClassVar[str] = ""
    """Where there is no such extra: how it is installed, as a command."""
    callback: ClassVar[str] = ""
    """Name of its callback class in `transformers.integrations`, where there is one."""
    sources: ClassVar[str] = ""
    """How a past run is named for `read`, as in `mlflow:RUN_ID`."""
    demo: ClassVar[type[DemoStore] | None] = None

    @property
    def name(self) -> str:
        """Of the tracker."""
        return self.kind.name

    @property
    def how_to_install(self) -> str:
        """A command."""
        return install_line(self.extra) if self.extra else self.install

    def joins(self, callback: Any) -> bool:
        """Whether a callback of the trainer stands for a run of this backend."""
        from transformers.integrations import integration_utils

        known = getattr(integration_utils, self.callback, None) if self.callback else None
        return known is not None and isinstance(callback, known)

    def is_open(self) -> bool:
        """Whether a run is open in this process. Asked on the training thread; imports nothing."""
        return False

    def tracker(self, callback: Any = None) -> Tracker:
        """A tracker for the run that is open, or for that of a callback. Raises ImportError with what to install."""
        made: Tracker = self.kind()
        return made

    # For `rldk-tracking doctor`.

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str] | None:
        """Whether it can be used, and how or what is missing; None where there is nothing to say."""
        if self.packages and versions.get(self.packages[0]) is None:
            return False, self.how_to_install
        return True, f"report_to={self.name!r}" if self.callback else "found"

    def notes(self, versions: Mapping[str, str | None]) -> list[str]:
        """What to know before a long training."""
        return []

    # For `rldk-tracking sync`.

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Options of the command that are about this backend."""

    def approved(
        self, to: Mapping[str, str], arguments: argparse.Namespace
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """An address out of a journal, and secrets, as this user wants it.

        Raises:
            PermissionError: it is a place that the journal alone names.
        """
        return to, {}

    def named_run(self, arguments: argparse.Namespace) -> Mapping[str, str] | None:
        """Address of the run that the user named for a training that had none."""
        return None

    def missing(self, to: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """For a tracker that writes in the training: of the records of one that was killed, those that did not arrive.

        Overridden where that can be known, and `Tracker.resume` goes on with such a run.
        """
        return []

    # For `rldk-tracking replay` and `report`. A `RejectedError` says what is wrong with the name.

    def read(self, path: str, skip: tuple[str, ...], also: Collection[str] = ()) -> PastRun:
        """The run of that name.

        Args:
            path: what follows the colon.
            skip: beginnings of the keys that are not wanted.
            also: names that are wanted beside keys of ours, where there are such.

        Raises:
            ImportError: the client is not installed.
            RejectedError, UnavailableError: there is no such run, or it cannot be asked for.
        """
        raise NotImplementedError

    def runs(self, path: str) -> list[str]:
        """Paths of the single runs that a path stands for. Raises as `read` does."""
        return [path]

    def written_back(self, source: str) -> AbstractContextManager[tuple[Tracker, set[str]]]:
        """A tracker for what was found in a past run, which is not open yet, and the series that its run has already.

        Raises:
            RejectedError, UnavailableError: there can be none.
        """
        raise NotImplementedError
