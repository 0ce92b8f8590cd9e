"""What one rank shows of being alive: a heartbeat beside the journal, in step with the phases of its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.journal.heartbeat import Heartbeat
from rldk_tracking.journal.journal import journal_stem
from rldk_tracking.sources.wrapping import Phase, PhaseWatch


class Liveness:
    """Beats from construction to `close`.

    Args:
        folder: the journal's.
        number: of the journal in its folder.
        rank, ranks: of this process, and how many beat.
        rule: says how long a phase may be silent; None where that is not watched.
        trainer: whose phases are followed; None in a loop of the user's own.
        step: the global step so far.
    """

    def __init__(
        self, folder: Path, number: int, rank: int, ranks: int, rule: Silence | None, trainer: Any, step: int
    ) -> None:
        self._heartbeat = Heartbeat(folder, journal_stem(number), rank, ranks, rule)
        self._heartbeat.beat("sampling", step)
        self._phases = None if trainer is None else PhaseWatch(trainer, self._heartbeat.beat)

    def beat(self, phase: Phase, step: int) -> None:
        """A phase of the training begins, or the one that is under way goes on."""
        self._heartbeat.beat(phase, step)

    def end(self) -> None:
        """Training is over, and what is left to do may take its time."""
        self._heartbeat.beat("ending")
        if self._phases is not None:
            self._phases.detach()

    def close(self) -> None:
        """Everything is over."""
        self._heartbeat.close()
