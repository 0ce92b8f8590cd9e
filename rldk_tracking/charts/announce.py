"""What a person at the terminal reads of a run, on stderr: where to look, alerts as they come, how it ended."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.arguments import printable

logger = logging.getLogger(__name__)
alert_logger = logging.getLogger("rldk_tracking.alerts")
"""Every alert is a record of it. Without a handler Python would write warnings to stderr, into the progress bar."""
alert_logger.addHandler(logging.NullHandler())

SILENT = "RLDK_SILENT"
"""Environment variable: set to anything but 0 or nothing, no line is written."""
WIDTH = 110
"""Characters of a line of an alert."""


_elsewhere: ContextVar[Callable[[str], None] | None] = ContextVar("announcements", default=None)


@contextmanager
def announced_by(other: Callable[[str], None]) -> Iterator[None]:
    """Hand what this thread announces to somebody else, who has the person's terminal."""
    token = _elsewhere.set(other)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def announce(text: str) -> None:
    """Write `rldk: <text>` to stderr, without breaking a progress bar that is there; also to the log, at level info."""
    other = _elsewhere.get()
    if other is not None:
        other(text)
        return
    logger.info("%s", text)
    _print(f"rldk: {printable(text)}")


def announce_alert(alert: Alert) -> None:
    """Write an alert above info that fires to stderr, with its advice; and every alert to the log."""
    is_news = alert.state == "firing" and alert.severity != "info" and alert.notify
    level = logging.WARNING if is_news else logging.INFO
    alert_logger.log(level, "%s (step %d): %s", alert.title, alert.step, alert.message)
    if is_news:
        _print(alert_lines(alert, "rldk: "))


def announce_journal(path: Path, folder: Path) -> None:
    """Say where everything of a run is kept, and the command that makes a page of what is in its folder."""
    announce(f"all of it: {_short(path)}; as a page: rldk-tracking report {shlex.quote(str(_short(folder)))}")


def alert_lines(alert: Alert, margin: str) -> str:
    """A line with step, severity, rule and message, and one with the advice while the alert fires.

    Args:
        alert: the alert.
        margin: what stands before it.
    """
    word = "resolved" if alert.state == "resolved" else alert.severity
    indent = " " * (len(margin) + 10)
    head = f"{margin}step {alert.step:<4} {word:<9} {alert.rule}: "
    lines = _wrapped(alert.message, head, indent)
    if alert.state == "firing" and alert.advice:
        lines += _wrapped(alert.advice, f"{indent}try: ", indent)
    return "\n".join(map(printable, lines))


def _wrapped(text: str, first: str, others: str) -> list[str]:
    """Lines that break between words alone: a command to be copied has hyphens."""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _short(path: Path) -> Path:
    """Relative to the working folder where the path lies below it."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _print(text: str) -> None:
    if os.environ.get(SILENT, "").strip().lower() not in ("", "0", "false"):
        return
    bars = sys.modules.get("tqdm")
    try:
        if bars is not None:
            bars.tqdm.write(text, file=sys.stderr)
        elif sys.stderr is not None:
            sys.stderr.write(text + "\n")
    except (OSError, ValueError):
        logger.debug("stderr is closed")
