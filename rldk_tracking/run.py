"""One training run: the probes that look at it, the rules that judge it, and the journal that it becomes.

A step is synchronous. When it is over, every rank adds what its probes saw, one vector goes from the device to the host
and one gather to rank 0, which computes the row, judges it, appends it to the journal and acts. Where a CUDA device
still computes, the copy is started and read at the next event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rldk_tracking.health.watched import silence_of
from rldk_tracking.isolation import Shield, TrainingStopped
from rldk_tracking.journal.heartbeat import Heartbeat
from rldk_tracking.journal.journal import journal_stem
from rldk_tracking.journal.judge import SAVE, STOP, Judge, webhooks_of
from rldk_tracking.journal.publisher import FOLDER, Publisher, folder_of
from rldk_tracking.journal.settings import Settings, needs_journal
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.probes.base import Probe, ProbeSet, StepData, Training
from rldk_tracking.probes.steps import ROLLOUT_COLUMNS, TAILS, UPDATE_COLUMNS, part_of, row_of
from rldk_tracking.ranks import SPREAD, Part, Ranks, Schema, Transfer
from rldk_tracking.rollout import RunInfo
from rldk_tracking.sources.logs import named
from rldk_tracking.sources.wrapping import Phase
from rldk_tracking.trackers.base import Tracker

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.health.rule import Rule


class Run:
    """The state of one training run on this rank.

    Args:
        settings: what its monitors ask for; those that join later may add to it.
        info: what its trackers may know of it.
        training: what its probes may know.
        find_trackers: gives the trackers of the trainer, where the user named none.

    Attributes:
        shield: keeps faults of the diagnostics from the trainer.
        probes: what looks at it, in order.
        judge: judges its rows; None before `open`.
        should_stop: whether rank 0 asked for a stop.
    """

    def __init__(
        self,
        settings: Settings,
        info: RunInfo | None = None,
        training: Training | None = None,
        find_trackers: Callable[[], Sequence[Tracker]] = list,
    ) -> None:
        self.settings = settings
        self.info = info if info is not None else RunInfo()
        self.shield = Shield(settings.strict)
        self.publisher = Publisher(settings.strict, settings.close_timeout_s)
        publish, report = self.publisher.publish, self.report
        self.training = replace(training or Training(), shield=self.shield, publish=publish, report=report)
        self.probes = ProbeSet(self.shield)
        self.should_stop = self._should_save = self._has_ended = False
        self._find_trackers = find_trackers
        self.judge: Judge | None = None
        self._ranks: Ranks | None = None
        self._pending: tuple[int, Transfer] | None = None
        self._resume: tuple[dict[str, Any], int | None] = ({}, None)
        self._urgent, self._flags, self._step = dict[str, float](), 0, 0
        self._heartbeat: Heartbeat | None = None

    def adopt(self, settings: Settings) -> None:
        """A further monitor takes part, with wishes of its own. Those of them that are rules count until `open`."""
        self.settings.adopt(settings)
        self.shield.strict = self.publisher.shield.strict = self.settings.strict

    def add_probes(self, probes: Sequence[Probe]) -> list[Probe]:
        """Begin the probes of which there is none of the same type yet; returns those that look, in the same order."""
        return self.probes.add(probes, self.training)

    def load_state(self, state: dict[str, Any], step: int | None = None) -> None:
        """Go on from another run's state, before the first step of this one.

        Args:
            state: of `state()`.
            step: the checkpoint's, where this run goes on in the other one's series.
        """
        self._resume = state or self._resume[0], step

    def open(self) -> tuple[Ranks, Judge]:
        """Find the ranks and the trackers; at the first event after train begin, when every monitor has joined."""
        if self._ranks is not None and self.judge is not None:
            return self._ranks, self.judge
        settings, (state, resumed_at), rules = self.settings, self._resume, self.settings.all_rules()
        self.judge = Judge(rules, settings, self.info.config)
        self.judge.load_state(state)
        self.probes.load_state(state)
        schema = Schema(ROLLOUT_COLUMNS, UPDATE_COLUMNS, TAILS, tuple(CATALOGUE))
        rows, about = self.probes.rows_per_rank or 512, settings.digest(rules)
        self._ranks = Ranks(schema, self.training.device, rows, settings=about, is_alone=settings.is_alone)
        folder = shared = folder_of(settings.output_dir, self.info)
        if self._ranks.writes:
            trackers = self._find_trackers() if settings.named_trackers is None else settings.named_trackers
            trackers = [*trackers, *webhooks_of(rules)]
            if shared is None and needs_journal(trackers, settings.trackers is not None):
                folder = Path(FOLDER)  # which the other ranks do not know of
            with self.shield.at("opening the trackers"):
                self.publisher.open(rules, self.info, trackers, folder, resumed_at, self._ranks.job_size)
        known = shared if self._ranks.world_size > 1 else folder
        if known is not None:
            self._start_heartbeat(known, rules, self._ranks)
        self._find_trackers = list  # which knows the trainer's callbacks, and they may know the trainer
        return self._ranks, self.judge

    def _start_heartbeat(self, folder: Path, rules: Sequence[Rule], ranks: Ranks) -> None:
        """Every rank shows next to the journal that it lives, and where it stands if somebody watches for hangs."""
        about = 2 * self.publisher.journal_number + self.publisher.is_watched
        if ranks.world_size > 1:
            about = ranks.agree(about)
        number, is_watched = divmod(about, 2)
        if number > 0:
            rule = silence_of(rules) if is_watched else None
            of_rank = (journal_stem(number), ranks.rank, ranks.world_size, rule)
            self._heartbeat = Heartbeat(folder, *of_rank, self.publisher.close_if_broken_off)
            self._heartbeat.begin(self._step, self.training.trainer)

    def beat(self, phase: Phase, step: int) -> None:
        """A phase of the training begins, or the one that is under way goes on."""
        self._step = step
        if self._heartbeat is not None:
            self._heartbeat.beat(phase, step)

    def before_step(self, step: int) -> None:
        """The step after `step` is about to be made."""
        self.complete()
        ranks, _ = self.open()
        urgent = self.probes.before_step(step)
        if ranks.world_size == 1:
            self.extra_row(step, urgent)
        else:  # a collective here would wait for ranks that saw nothing
            self._urgent.update(urgent)

    def finish(self, data: StepData) -> None:
        """A step is over: look, and write its row; where a device still computes, at the next event."""
        self.complete()
        ranks, judge = self.open()
        for step, scalars in self.probes.late_rows().items():
            self.extra_row(step, scalars)
        self._pending = data.step, ranks.start(self._collect(data, ranks, judge))
        # A trainer that logs the step has waited for its device. Every rank decides alike, as a collective follows.
        if data.logs or self.training.device is None or self.training.device.type != "cuda":
            self.complete()

    def complete(self) -> None:
        """Write the row of a step whose numbers were still on their way, and act as all ranks agree."""
        if self._pending is None:
            return
        (step, transfer), self._pending = self._pending, None
        ranks, _ = self.open()
        merged = None
        with self.shield.at("the exchange of a step"):
            merged = transfer.merged()
        if merged is not None:
            with self.shield.at("judging a step"):
                self._write(step, self.probes.derive(step, row_of(merged), merged))
        self._flags = ranks.agree(self._flags)
        self._act()

    def _write(self, step: int, row: dict[str, float]) -> None:
        """Judge a row, append it to the journal with what was found, and hand both to the trackers in this process."""
        if not row:
            return
        publisher, (_, judge) = self.publisher, self.open()
        publisher.join()
        is_late = self.latest_step is not None and step < self.latest_step
        row.update({} if is_late else publisher.health())
        alerts = judge.update(step, row, is_late)
        unsent = publisher.row(step, row, alerts, judge.status)
        self._flags |= judge.act(step, alerts, unsent)

    def extra_row(self, step: int, logs: Mapping[str, Any], override: bool = True) -> None:
        """Something that comes after the step's row, or cannot wait for the next one. Rank 0 alone writes.

        Where `override` is False, the numbers that the step's row has already stay.
        """
        ranks, judge = self.open()
        self.complete()
        known = {} if override or self.latest_step != step else self.latest
        # Before the first row the trainer's own numbers are those of the step that is under way.
        found = ({} if self.latest_step is None and not override else named(logs)) | judge.own_numbers(logs)
        scalars = {key: value for key, value in found.items() if key not in known and math.isfinite(value)}
        if ranks.writes:
            self._write(step, scalars)
        if ranks.job_size == 1:  # else it is acted on in the next step, in which all ranks agree
            self._act()

    def report(self, scalars: Mapping[str, float]) -> None:
        """Numbers that cannot wait for the step that is under way, on rank 0; before the first row they are dropped."""
        if self._pending is None and self.latest_step is not None:  # else the other ranks would be waited for
            self.extra_row(self.latest_step, scalars)

    def _collect(self, data: StepData, ranks: Ranks, judge: Judge) -> Part:
        """What this rank knows of the step. What cannot be read is missing, and no fault keeps it from the exchange."""
        self.probes.collect(data)
        data.add(judge.own_numbers(data.logs, data.is_last) | self._urgent, override=False)
        self._urgent = {}
        part = part_of(data.scalars, data.vector, data.rollout, data.update, self.shield)
        if part.scalars or part.rollout or part.update:
            part.scalars["rldk/system/overhead_fraction"] = self.shield.take_share()
        if ranks.world_size > 1:
            part.scalars[SPREAD] = ranks.waited + data.waited_seconds
        return part

    def _act(self) -> None:
        """What was decided. Among several ranks that is after they agreed, so that all do the same in the same step."""
        self.should_stop = self.should_stop or bool(self._flags & STOP)
        self._should_save = self._should_save or bool(self._flags & SAVE)
        self._flags = 0

    def take_save(self) -> bool:
        """Whether rank 0 asked for a checkpoint; once for each that it asked for."""
        should_save, self._should_save = self._should_save, False
        return should_save

    def saved(self, step: int) -> None:
        """A checkpoint was written."""
        self.complete()
        self.probes.saved(step)

    @property
    def stop(self) -> Alert | None:
        """The alert that asked for a stop, on the rank that judges."""
        return None if self.judge is None else self.judge.stop

    @property
    def can_save(self) -> bool:
        """Whether the trainer can be asked for a checkpoint: TRL's PPOTrainer fails when it saves on several ranks."""
        return self.probes.honours_stop or self._ranks is None or self._ranks.world_size == 1

    @property
    def is_open(self) -> bool:
        """Whether its first event has come, and nobody has closed it."""
        return self._ranks is not None and not self._has_ended

    @property
    def closed(self) -> bool:
        """Whether it is over."""
        return self.publisher.closed

    @property
    def latest(self) -> dict[str, float]:
        """The last row, key to value."""
        return self.publisher.latest[1]

    @property
    def latest_step(self) -> int | None:
        """The last row's step; None before the first."""
        return self.publisher.latest[0]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on judging where this one is, as plain data."""
        self.complete()
        return {} if self.judge is None else self.judge.state() | {"probes": self.probes.state()}

    def raise_stop(self, step: int) -> None:
        """End a training, at this step, that does not honour the stop flag.

        Raises:
            TrainingStopped: always, after the trackers were flushed.
        """
        stop = self.stop
        rule, step, message = (stop.rule, stop.step, stop.message) if stop is not None else ("another rank", step, "")
        self.close("stopped", step)
        raise TrainingStopped(rule, step, message)

    def close(self, status: str, step: int | None = None) -> None:
        """Write what is under way, have the probes take out what they installed, and close the journal."""
        if self._has_ended:
            return
        self._has_ended = True
        # Of a training that was broken off the other ranks may be gone, and its journal may be closed.
        if not self.closed and (status != "crashed" or self._ranks is None or self._ranks.world_size == 1):
            with self.shield.at("the last row"):
                self.complete()
        self._pending = None
        rows = self.probes.end(self.latest_step or step or 0)
        for at, scalars in rows.items() if status != "crashed" else ():
            with self.shield.at("the last rows"):
                self.extra_row(at, scalars)
        if self._heartbeat is not None:
            self._heartbeat.end()
        self.publisher.close(status, step)
        if self._heartbeat is not None:
            self._heartbeat.close()
        # Whoever keeps the callback, to look at its alerts, does not keep the trainer.
        self.training = replace(Training(), shield=self.shield, publish=self.publisher.publish)
