"""The courier's process: `python -m rldk_tracking.courier`, started by a training.

It reads from its standard input which journals to follow, see `rldk_tracking.journal.service`. By hand,
`rldk-tracking sync` does the same.

What it is set up with is for a process that only delivers: in a training's own process that is the user's to choose.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_POLITENESS = 5
ENVIRONMENT = {
    # A server that is away must be noticed soon; what it misses is repeated by the courier, not by MLflow.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # Nor does a server say for how long nobody asks it again, or to whom else the rows and credentials go.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Variable to value, where the user has none of his own."""


@contextmanager
def delivering() -> Iterator[None]:
    """Have these settings, where the user has none of his own."""
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


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
