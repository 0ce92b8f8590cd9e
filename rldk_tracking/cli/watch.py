"""`rldk-tracking watch RUN`: say what happens in a run as it happens, a line for each event, until the run ends.

A training that goes on is followed in its journal, from the first row. Any other source that `replay` reads is over:
its events are those that a replay finds. The exit code is the verdict on the run, as that of `replay`.

| event | is |
|---|---|
| opened, worsened, resolved | of an alert: its fields follow, see `rldk_tracking.health.alert.Alert` |
| hung, crashed | the same of the rules `run.hung` and `run.crashed` |
| end | the last line: status, verdict, step, rules that are open, notes on the reading |
| timeout | the last line where the run goes on; the verdict is that on what there is |

A training whose process is gone without a word has crashed. Whether a process of another machine is gone cannot be
seen: such a journal has ended, with the status "unknown", where nothing came for an hour.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rldk_tracking.cli.replay import FAULTS, unreadable
from rldk_tracking.journal.contents import Contents
from rldk_tracking.messages.arguments import printable

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert

Event = dict[str, Any]
LOOK_S = 0.5
"""Seconds between two looks at the journal."""
OF_THE_RUN = {"run.hung": "hung", "run.crashed": "crashed"}
"""Rule to the event that it is when it fires."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("source", metavar="RUN", help="an output folder, a journal, or what else `replay` reads")
    parser.add_argument("--json", action="store_true", help="each line is a JSON object")
    parser.add_argument("--timeout", type=seconds, default=math.inf, metavar="SECONDS", help="leave after so long")
    parser.add_argument(
        "--rules", default="safe", help="for a run that was not watched: safe, strict, quiet, or a file"
    )


def seconds(text: str) -> float:
    """A time to wait. Raises ValueError."""
    value = float(text)
    if not value >= 0:
        raise ValueError("a time cannot be negative")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Print the events, and return the exit code of the verdict."""
    from rldk_tracking.health.verdict import EXIT_CODES
    from rldk_tracking.trackers.lines import line_of

    try:
        journal = journal_of(arguments.source)
        events = over(arguments.source, arguments.rules) if journal is None else follow(journal, arguments.timeout)
        for event in events:
            sys.stdout.write(line_of(event).decode() if arguments.json else f"{printable(_words(event))}\n")
            sys.stdout.flush()
    except FAULTS as fault:
        raise SystemExit(unreadable(arguments.source, fault).reason) from fault
    return EXIT_CODES[event["verdict"]]


def journal_of(source: str) -> Path | None:
    """The journal that a training wrote, the newest of a folder; None for any other source."""
    from rldk_tracking.history.reading import journals_of

    path = Path(source)
    journals = journals_of(path) if path.is_dir() else [path] if path.suffix == ".jsonl" and path.is_file() else []
    if len(journals) > 1:
        others = ", ".join(str(journal) for journal in journals[1:])
        sys.stderr.write(f"{printable(f'watching {journals[0]}; also found {others}')}\n")
    return journals[0] if journals and Contents.of(journals[0]).pid > 0 else None


class Changes:
    """What each alert changes in a run.

    Attributes:
        open: the alerts that have not ended, by rule.
        fired: every alert that fired.
    """

    def __init__(self) -> None:
        self.open: dict[str, Alert] = {}
        self.fired: list[Alert] = []

    def take(self, alerts: Sequence[Alert]) -> Iterator[Event]:
        """The events of some alerts. One that is open already, and no worse, is none."""
        from rldk_tracking.health.alert import SEVERITIES

        for alert in alerts:
            before = self.open.pop(alert.rule, None)
            if alert.state == "firing":
                self.open[alert.rule] = alert
                self.fired.append(alert)
                is_told = before is None or SEVERITIES.index(alert.severity) > SEVERITIES.index(before.severity)
                kind = "worsened" if before is not None else OF_THE_RUN.get(alert.rule, "opened")
            else:
                kind, is_told = "resolved", before is not None
            if is_told:
                yield {"event": kind, **alert.as_dict()}


def over(source: str, rules: str) -> Iterator[Event]:
    """The events of a run that is over. Raises as `replay` does."""
    from rldk_tracking.history.replay import replay

    result, changes = replay(source, rules=rules), Changes()
    yield from changes.take([alert for _, alert in result.alerts])
    last = {"status": "over", "verdict": result.verdict, "open": [*changes.open], "notes": [*result.notes]}
    yield {"event": "end", **last}


def follow(journal: Path, timeout_s: float = math.inf) -> Iterator[Event]:
    """The events of a training as its journal gets them.

    Args:
        journal: begun by a training.
        timeout_s: for how long it is followed.

    Raises:
        OSError: the journal cannot be read.
    """
    from rldk_tracking.health.verdict import verdict_on
    from rldk_tracking.history.reading import skipped_lines
    from rldk_tracking.journal.reader import FileLines, read_all
    from rldk_tracking.journal.watchdog import Watchdog

    leave_at = time.monotonic() + timeout_s
    lines, contents, changes = FileLines(journal), Contents(), Changes()
    row: dict[str, float] = {}
    begin: dict[str, Any] | None = None
    while True:
        state = contents.state(journal)  # before the reading: what was written until then is read
        for entry in read_all(lines, contents.position):
            contents.take(entry)
            yield from changes.take([arguments[0] for method, arguments in entry.calls if method == "alert"])
            row = next(
                (args[0] for method, args in entry.calls if method == "log" and args[1] >= contents.last_step), row
            )
        if contents.begin is not begin:  # the first one, or that of a training that goes on in the same journal
            begin, firing = contents.begin, contents.firing.values()
            watchdog = Watchdog(journal, contents.pid, contents.created, contents.rules, firing)
            continue
        for _ in range(2 if state == "crashed" else 1):  # it believes what it sees twice
            yield from changes.take(watchdog.look(time.monotonic(), contents.last_step, contents.end))
        is_over = contents.has_ended or state != "running"
        if is_over or time.monotonic() >= leave_at:
            break
        time.sleep(min(LOOK_S, max(0.0, leave_at - time.monotonic())))
    lines.close()
    yield {
        "event": "end" if is_over else "timeout",
        "status": contents.state(journal) if is_over else "running",
        "verdict": verdict_on(changes.fired, row),
        "step": max(0, contents.last_step),
        "open": [*changes.open],
        "notes": [*skipped_lines(len(contents.skipped))],
    }


def _words(event: Event) -> str:
    """The event for people."""
    if "rule" in event:
        return f"step {event['step']} {event['event']} {event['severity']} {event['rule']}: {event['message']}"
    still = f"; open: {', '.join(event['open'])}" if event["open"] else ""
    at = f" at step {event['step']}" if "step" in event else ""
    return "; ".join((f"{event['event']}: {event['status']}{at}, {event['verdict']}{still}", *event["notes"]))
