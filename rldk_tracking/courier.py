"""The courier's process: `python -m rldk_tracking.courier`, started by a training.

It reads from its standard input which journals to follow, see `rldk_tracking.journal.service`. By hand,
`rldk-tracking sync` does the same.
"""

from __future__ import annotations

import logging
import os
import sys

from rldk_tracking.journal.environment import delivering

_POLITENESS = 5


def main() -> int:
    """Run the courier. Returns the exit code."""
    if sys.stdin is None or sys.stdin.isatty():
        sys.stderr.write("A training starts the courier. By hand, `rldk-tracking sync FOLDER` sends what waits.\n")
        return 2
    with delivering():
        from rldk_tracking.journal.service import serve

        logging.raiseExceptions = False
        if hasattr(os, "nice"):
            os.nice(_POLITENESS)  # the training goes first
        # Unbuffered: a thread that waits in a buffered read when the interpreter ends aborts the process.
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as source:
            serve(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
