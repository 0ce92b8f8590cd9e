"""What a training finds in the journals of those that it goes on from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.reader import FileLines, read_all

BEFORE_ALL_STEPS = -(2**53)


@dataclass
class Earlier:
    """The earlier part of a run.

    Attributes:
        last_step: of the rows that are in the journal; the resumed training does not write them again.
        destinations: name and address of each tracker.
        alerts: transitions after the checkpoint's step, which people have been told of.
        open_run_alerts: alerts of the family `run` that did not end.
        is_resumed: whether the journal itself began as the continuation of another.
    """

    last_step: int = BEFORE_ALL_STEPS
    destinations: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    open_run_alerts: dict[str, Alert] = field(default_factory=dict)
    is_resumed: bool = False

    @classmethod
    def read(cls, path: Path, resumed_at: int) -> Earlier:
        """What one journal holds. Raises OSError."""
        found = cls()
        lines, has_begun = FileLines(path), False
        for entry in read_all(lines):
            kind = entry.record.get("type")
            if kind == "begin" and not has_begun:
                has_begun = True
                found.is_resumed = entry.record.get("resumed_at") is not None
            elif kind == "destination":
                to = entry.record.get("to")
                pair = (str(entry.record.get("tracker")), dict(to) if isinstance(to, dict) else {})
                if pair not in found.destinations:
                    found.destinations.append(pair)
            for method, args in entry.calls:
                if method == "log":
                    found.last_step = max(found.last_step, args[1])
                elif method == "alert":
                    found._take(args[0], resumed_at)
        lines.close()
        return found

    @classmethod
    def chain(cls, journals: Sequence[Path], resumed_at: int) -> Earlier:
        """The alerts of the newest of these journals and of those that it is the continuation of.

        For a training that goes on in a journal of its own: its destinations get every row, but people are not told
        the same twice.
        """
        found = cls()
        for path in reversed(journals):
            one = cls.read(path, resumed_at)
            found.alerts = one.alerts + found.alerts
            found.open_run_alerts = one.open_run_alerts | found.open_run_alerts
            if not one.is_resumed:
                break
        return found

    def rows(self, path: Path, after: int, until: int) -> Iterator[tuple[int, dict[str, float]]]:
        """The rows in the journal, of the steps behind `after` up to `until`. Raises OSError."""
        if self.last_step > after:
            lines = FileLines(path)
            for entry in read_all(lines):
                for method, args in entry.calls:
                    if method == "log" and after < args[1] <= until:
                        yield args[1], args[0]
            lines.close()

    def is_news(self, alert: Alert) -> bool:
        """Whether nobody was told of this alert between the checkpoint and the end of the earlier training.

        The same rule is told of once more when it fires again later than anything told so far.
        """
        latest = max((told.step for told in self.alerts), default=alert.step)
        for told in self.alerts:
            same = (told.rule, told.state, told.severity) == (alert.rule, alert.state, alert.severity)
            if same and alert.step <= latest:
                self.alerts.remove(told)
                return False
        return True

    def _take(self, alert: Alert, resumed_at: int) -> None:
        if not note_run_alert(self.open_run_alerts, alert) and alert.step > resumed_at:
            self.alerts.append(alert)


def note_run_alert(firing: dict[str, Alert], alert: Alert) -> bool:
    """Keep account of which alerts of the family `run` fire. Returns whether this is one."""
    if not alert.rule.startswith("run."):
        return False
    if alert.state == "firing":
        firing[alert.rule] = alert
    else:
        firing.pop(alert.rule, None)
    return True
