"""Says when a training has crashed or hangs, from outside of it. See the rules `run.crashed` and `run.hung`.

The process that delivers a journal asks it about once a second. Reading (`Sight`, `Watchdog.look`) is apart from
judging (`Watchdog.judge`), which needs no process and no file.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/run/silent_seconds | s | host | lower | max over ranks
        For how long nothing was heard of the training. Judged from outside, in no row of its own.
        = seen by the watchdog: no event of the callback and no row in the journal
    rldk/run/gone | 1 | host | lower | max over ranks
        1 where the training ended without saying so or by an exception, 0 where it trains. Judged from outside.
        = the training's process is gone, or lives and trains no more
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.conditions.silence import LIMIT_KEY
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watch import BREACHED, Watch
from rldk_tracking.health.watched import from_data, watched_rules
from rldk_tracking.journal import beats
from rldk_tracking.journal.beats import GONE, STOPPED, Beat
from rldk_tracking.journal.stacks import main_thread, read_stacks

logger = logging.getLogger(__name__)

GONE_KEY, SILENT_KEY = "rldk/run/gone", "rldk/run/silent_seconds"
LONGEST_GAP_S = 60.0
"""Where so much passed between two looks, the watchdog itself was stopped or asleep: silence is counted anew."""
OLDER_S = 60.0
"""A rank's last beat that lies so far before the training's begin is of an earlier training; clocks differ by less."""
NAMED_RANKS = 8
QUOTED_CHARACTERS = 1000
LAST_LINE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a training at one moment.

    Attributes:
        beat: rank 0's, None where there is none.
        process: what the training's process does, see `beats.process_state`.
        can_write: whether a beat could be written.
        peers: reads the other ranks' beats, each with what its process does.
        stacks: reads what rank 0 wrote into its file of stacks in this silence.
    """

    beat: Beat | None
    process: str
    can_write: bool = True
    peers: Callable[[], list[tuple[Beat, str]]] = field(default=list)
    stacks: Callable[[], str | None] = field(default=lambda: None)


class Quiet:
    """For how long nothing has changed, as the one who looks has seen it pass."""

    def __init__(self) -> None:
        self.has_changed = False
        """Whether something changed since the first look."""
        self._last: tuple[float, object] | None = None
        self._seconds = 0.0

    def look(self, now: float, mark: object) -> float:
        """Seconds since `mark` was another one.

        Args:
            now: on a clock that may be set: a jump is taken for a time in which nobody looked.
            mark: what changes with every sign of life.
        """
        before, self._last = self._last, (now, mark)
        if before is None:
            return 0.0
        gap = now - before[0]
        if mark != before[1]:
            self.has_changed, self._seconds = True, 0.0
        elif gap > LONGEST_GAP_S:
            self._seconds = 0.0
        else:
            self._seconds += max(0.0, gap)
        return self._seconds


class Watchdog:
    """Watches the training that writes a journal.

    Args:
        journal: the file; beats and stacks lie next to it.
        pid, created: of the training's process (rank 0), which is on this host unless its beat says otherwise.
        rules: as `health.watched.as_data` made them. One that cannot be read is taken as it is built in.
        firing: alerts in the journal that have not ended, so that they are not sent again and end when steps come.
    """

    def __init__(
        self,
        journal: Path,
        pid: int,
        created: float,
        rules: Mapping[str, Mapping[str, Any]],
        firing: Iterable[Alert] = (),
    ) -> None:
        self._folder, self._stem = journal.parent, journal.stem
        self._pid, self._created = pid, created
        self._watches = [Watch(rule, {}) for rule in _rules_of(rules)]
        self._quiet = Quiet()
        self._was_gone = False
        open_alerts = {alert.rule: alert for alert in firing}
        for watch in self._watches:
            alert = open_alerts.get(watch.rule.id)
            if alert is not None:
                since = {
                    "since": alert.step,
                    "onset": alert.first_step,
                    "recent": [BREACHED] * watch.rule.persistence[1],
                }
                watch.load_state({"severity": alert.severity, "alert": alert.as_dict(), **since})

    def look(self, now: float, last_step: int, end: Mapping[str, Any] | None = None) -> list[Alert]:
        """What has changed since the last look.

        Args:
            now: of `time.monotonic`.
            last_step: of the last row in the journal; 0 or less before the first.
            end: the journal's `end` record, where it has one behind its last `begin`.

        Returns:
            Alerts that begin to fire, become more severe, or end.
        """
        own = [beat for beat in beats.read_beats(self._folder, self._stem, 0) if self._is_mine(beat)]
        beat = own[0] if own else None
        host = beats.host_name() if beat is None else beat.host
        sight = Sight(
            beat,
            beats.process_state(self._pid, self._created, host),
            beats.can_write(self._folder),
            self._peers,
            lambda: None if beat is None else read_stacks(self._folder, beat),
        )
        return self.judge(now, sight, last_step, end)

    def _is_mine(self, beat: Beat) -> bool:
        return beat.pid == self._pid and abs(beat.created - self._created) <= beats.CREATED_TOLERANCE_S

    def _peers(self) -> list[tuple[Beat, str]]:
        found = beats.read_beats(self._folder, self._stem)
        return [(beat, beats.process_state(beat.pid, beat.created, beat.host)) for beat in found]

    def judge(self, now: float, sight: Sight, last_step: int, end: Mapping[str, Any] | None = None) -> list[Alert]:
        """As `look`, on what was seen."""
        beat = sight.beat
        mark = (None if beat is None else beat.events, last_step)
        silent = self._quiet.look(now, mark)
        row, crash = self._row(silent, sight, end)
        step = max(0, last_step, 0 if beat is None else beat.step)
        changes = []
        for watch in self._watches:
            watch.look(step, row)
            was = watch.firing()
            if was is not None and watch.wants_to_resolve():
                changes.append(watch.resolve(step, was))
            severity = watch.wants_to_fire(step)
            if severity is not None and watch.finding is not None:
                about = hang_evidence(sight) if crash is None else crash
                watch.finding.evidence = {**(watch.finding.evidence or {}), **about}
                changes.append(watch.fire(step, severity, watch.finding))
        return changes

    def _row(
        self, silent: float, sight: Sight, end: Mapping[str, Any] | None
    ) -> tuple[dict[str, float], dict[str, float | str] | None]:
        """What is known, as a row for the rules, and the evidence of a crash where there was one."""
        beat = sight.beat
        if end is not None:
            if end.get("status") == "crashed":
                return {GONE_KEY: 1.0}, crash_evidence(end, self._pid)
            return {GONE_KEY: 0.0, SILENT_KEY: 0.0}, None
        if sight.process == GONE:
            # The end may have been written between the reading of the journal and this look: the next one decides.
            before, self._was_gone = self._was_gone, True
            return ({GONE_KEY: 1.0}, crash_evidence({}, self._pid)) if before else ({}, None)
        self._was_gone = False
        if beat is None or not sight.can_write:
            return {}, None
        is_over = beat.limit_s is not None and silent > beat.limit_s
        if not is_over and not self._quiet.has_changed:
            return {}, None  # a watchdog that has just begun knows of no silence, and of no sign of life either
        row = {SILENT_KEY: silent} | ({} if beat.limit_s is None else {LIMIT_KEY: beat.limit_s})
        return row if is_over or beat.phase == "starting" else {**row, GONE_KEY: 0.0}, None


def _rules_of(data: Mapping[str, Mapping[str, Any]]) -> list[Rule]:
    rules = []
    for name, fields in data.items():
        try:
            rules += from_data({name: fields})
        except ValueError as error:
            logger.warning("rldk: rule %s cannot be read from the journal: %s", name, error)
            rules += watched_rules(rule for rule in builtin_rules().values() if rule.id == name)
    return rules


def crash_evidence(end: Mapping[str, Any], pid: int) -> dict[str, float | str]:
    """How a training ended, from the journal's end record, or without one."""
    exception = str(end.get("exception") or "").strip()
    if exception:
        last = exception.splitlines()[-1].strip().rstrip(".")[:LAST_LINE_CHARACTERS]
        return {"how": "crashed", "cause": last, "pid": pid, "exception": exception[-QUOTED_CHARACTERS:]}
    what = "it ended without a word" if end else f"its process {pid} is gone"
    return {"how": "crashed", "cause": f"{what} and no exception was seen: killed, or out of memory", "pid": pid}


def hang_evidence(sight: Sight) -> dict[str, float | str]:
    """In which phase a training hangs, who did not arrive, and where its main thread stands."""
    beat, stacks = sight.beat, sight.stacks()
    about = [f"its process is {sight.process}"]
    if beat is None:
        return {"process": sight.process, "about": about[0]}
    evidence: dict[str, float | str] = {"phase": beat.phase, "process": sight.process}
    if beat.ranks > 1:
        about.append(not_arrived(beat, sight.peers()))
        evidence["ranks"] = about[-1]
    evidence["about"] = "; ".join(about)
    if stacks is not None:
        evidence |= {"stacks": main_thread(stacks, QUOTED_CHARACTERS), "stacks_file": beat.stacks}
    return evidence


def not_arrived(own: Beat, peers: Iterable[tuple[Beat, str]]) -> str:
    """Which ranks are behind the most advanced ones by their events, stopped or gone, and which were not seen.

    Clocks of other hosts are not asked: what counts is how many events each rank had.

    Args:
        own: rank 0's beat.
        peers: the beats of all ranks, each with what its process does.
    """
    present = {
        beat.rank: (beat, state)
        for beat, state in peers
        if beat.rank < own.ranks and beat.time > own.began - OLDER_S  # else of an earlier training
    }
    most = max(((beat.step, beat.events) for beat, _ in present.values()), default=(0, 0))
    late = [
        f"rank {rank} on {beat.host} ({state}, phase {beat.phase} of step {beat.step})"
        for rank, (beat, state) in sorted(present.items())
        if (beat.step, beat.events) < most or state in (STOPPED, GONE)
    ]
    unseen = [f"rank {rank} (never seen)" for rank in range(own.ranks) if rank not in present]
    behind = late + unseen
    if not behind:
        return f"all {own.ranks} ranks stand at the same event"
    more = f" and {len(behind) - NAMED_RANKS} more" if len(behind) > NAMED_RANKS else ""
    return f"of {own.ranks} ranks did not arrive: {', '.join(behind[:NAMED_RANKS])}{more}"
