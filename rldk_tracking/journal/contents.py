"""What a journal says of its run: the one reading of it that the courier, `sync` and a resumed training share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.beats import host_name, is_alive
from rldk_tracking.journal.offset import Target
from rldk_tracking.journal.reader import Entry, FileLines, Lines, read_all

BEFORE_ALL_STEPS = -(2**53)
QUIET_S = 3600.0
"""Where another machine has written nothing for so long, its training is taken to be over."""


@dataclass
class Contents:
    """What the records of a journal say, as far as they were read.

    Attributes:
        begin: the last begin record, empty where there is none.
        end: the end record behind the last begin, None where the training did not say how it ended.
        is_resumed: whether the journal itself began as the continuation of another.
        destinations: name and address of each tracker.
        targets: those that a courier serves, by id.
        in_training: those that the training itself writes to, by id.
        last_step: of its rows; 0 or less before the first.
        position: behind the last line that was read.
        skipped: lines that are no record: position and why.
        alerts: every transition that the training itself found.
        firing: alerts of the family `run` that did not end, by rule.
    """

    begin: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    is_resumed: bool = False
    destinations: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    in_training: dict[str, Target] = field(default_factory=dict)
    last_step: int = BEFORE_ALL_STEPS
    position: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    firing: dict[str, Alert] = field(default_factory=dict)

    @classmethod
    def of(cls, journal: Path) -> Contents:
        """Of a whole journal. Raises OSError."""
        lines, found = FileLines(journal), cls()
        found.read(lines)
        lines.close()
        return found

    def read(self, lines: Lines) -> None:
        """Read on to the end of what there is. Raises OSError."""
        for entry in read_all(lines, self.position):
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """What one entry says; they come in order."""
        self.position = entry.end
        record, kind = entry.record, entry.record.get("type")
        if entry.problem is not None:
            self.skipped.append((entry.start, entry.problem))
        elif kind == "begin":
            self.is_resumed = self.is_resumed if self.begin else record.get("resumed_at") is not None
            self.begin, self.end = record, None
        elif kind == "end":
            self.end = record
        elif kind == "destination":
            self._take_destination(record)
        for method, args in entry.calls:
            if method == "log":
                self.last_step = max(self.last_step, args[1])
            elif method == "alert":
                self._take_alert(args[0])

    def _take_destination(self, record: Mapping[str, Any]) -> None:
        to = record.get("to")
        to = {str(name): str(value) for name, value in to.items()} if isinstance(to, dict) else {}
        name, tracker = str(record.get("id")), str(record.get("tracker"))
        if (tracker, to) not in self.destinations:
            self.destinations.append((tracker, to))
        # The id becomes the name of a file: no path of somebody else's making.
        if name.replace("-", "").replace("_", "").isalnum():
            served = self.in_training if record.get("in_process") else self.targets
            served[name] = Target(name, tracker, to)

    def _take_alert(self, alert: Alert) -> None:
        if not alert.rule.startswith("run."):
            self.alerts.append(alert)
        elif alert.state == "firing":
            self.firing[alert.rule] = alert
        else:
            self.firing.pop(alert.rule, None)

    @property
    def has_ended(self) -> bool:
        """Whether the training said how it ended."""
        return self.end is not None

    def state(self, journal: Path) -> str:
        """How the training ended; "running" where it goes on, "unknown" where neither can be seen. Raises OSError.

        Args:
            journal: the file, which says by its time how long another machine has been silent.
        """
        if self.end is not None:
            return str(self.end.get("status"))
        if self.is_elsewhere:
            is_quiet = time.time() - journal.stat().st_mtime > QUIET_S
            return "crashed" if "run.crashed" in self.firing else "unknown" if is_quiet else "running"
        return "running" if is_alive(self.pid, self.created) else "crashed"

    @property
    def is_elsewhere(self) -> bool:
        """Whether another machine wrote it, whose processes cannot be seen."""
        return self.begin.get("host") not in (None, host_name())

    @property
    def pid(self) -> int:
        """Of the process that wrote it last; -1 where it is not known."""
        pid = self.begin.get("pid")
        return pid if isinstance(pid, int) and 0 < pid < 2**31 else -1

    @property
    def created(self) -> float:
        """When that process started, in seconds since the epoch."""
        created = self.begin.get("created")
        return float(created) if isinstance(created, (int, float)) and abs(created) < 1e12 else 0.0

    @property
    def rules(self) -> dict[str, dict[str, Any]]:
        """Parameters of the rules of the family `run` that it ran under."""
        rules = self.begin.get("rules")
        found = rules.items() if isinstance(rules, dict) else ()
        return {name: parameters for name, parameters in found if isinstance(parameters, dict)}


@dataclass
class Earlier:
    """What a training finds in the journals of those that it goes on from.

    Attributes:
        last_step: of the rows that are in its own journal; the resumed training does not write them again.
        destinations: name and address of each tracker of its own journal.
        sent: alerts after the checkpoint's step, which people know.
    """

    last_step: int = BEFORE_ALL_STEPS
    destinations: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: list[Alert] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, resumed_at: int) -> Earlier:
        """What the journal holds that it goes on with. Raises OSError."""
        found = Contents.of(path)
        return cls(found.last_step, found.destinations, [alert for alert in found.alerts if alert.step > resumed_at])

    @classmethod
    def chain(cls, journals: Sequence[Path], resumed_at: int) -> Earlier:
        """The alerts of the newest of these journals and of those that it is the continuation of. Raises OSError.

        For a training that goes on in a journal of its own: its destinations get every row, but no alert twice.
        """
        chain = cls()
        for path in reversed(journals):
            found = Contents.of(path)
            chain.sent = [alert for alert in found.alerts if alert.step > resumed_at] + chain.sent
            if not found.is_resumed:
                break
        return chain

    def rows(self, path: Path, after: int, until: int) -> Iterator[tuple[int, dict[str, float]]]:
        """The rows in the journal, of the steps behind `after` up to `until`. Raises OSError."""
        if self.last_step > after:
            lines = FileLines(path)
            for entry in read_all(lines):
                for method, args in entry.calls:
                    if method == "log" and after < args[1] <= until:
                        yield args[1], args[0]
            lines.close()

    def is_new(self, alert: Alert) -> bool:
        """Whether this alert was not sent between the checkpoint and the end of the earlier training.

        The same rule is sent once more when it fires again later than all that was sent.
        """
        latest = max((sent.step for sent in self.sent), default=alert.step)
        for sent in self.sent:
            same = (sent.rule, sent.state, sent.severity) == (alert.rule, alert.state, alert.severity)
            if same and alert.step <= latest:
                self.sent.remove(sent)
                return False
        return True
