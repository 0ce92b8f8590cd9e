"""Tells a person at the terminal where to look: one line on stderr, as the trackers do for their own links."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger(__name__)

SILENT = "RLDK_SILENT"
"""Environment variable: set to anything but 0 or nothing, no line is written."""


def announce(text: str) -> None:
    """Write `rldk: <text>` to stderr, without breaking a progress bar that is there; also to the log, at level info."""
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
