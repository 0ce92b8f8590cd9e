"""Tells a person at the terminal where to look: one line on stderr, as the trackers do for their own links."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

logger = logging.getLogger(__name__)

SILENT = "RLDK_SILENT"
"""Environment variable: set to anything but 0 or nothing, no line is written."""


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
    if os.environ.get(SILENT, "").strip().lower() not in ("", "0", "false"):
        return
    line = f"rldk: {text}"
    bars = sys.modules.get("tqdm")
    try:
        if bars is not None:
            bars.tqdm.write(line, file=sys.stderr)
        elif sys.stderr is not None:
            sys.stderr.write(line + "\n")
    except (OSError, ValueError):
        logger.debug("stderr is closed")
