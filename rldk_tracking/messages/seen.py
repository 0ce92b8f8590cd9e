"""What the processes of `rldk-tracking run` come to, for it to say at the end where no training began."""

from __future__ import annotations

import logging
import os

SEEN = "_RLDK_RUN_SEEN"
"""Environment variable: the file that gets a line for each thing."""

logger = logging.getLogger(__name__)


def note(what: str) -> None:
    """Write a line, where `rldk-tracking run` has started this process."""
    if path := os.environ.get(SEEN):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{what}\n")
        except OSError:  # on another machine, or after the end of the command
            logger.debug("nobody is told of %s", what)
