"""The courier's process: `python -m rldk_tracking.courier`, started by a training.

It reads from its standard input which journals to follow, see `rldk_tracking.journal.service`. By hand,
`rldk-tracking sync` does the same.
"""

from __future__ import annotations

import logging
import os
import sys

ENVIRONMENT = {
    # A server that is away must be noticed soon; what it misses is repeated by the courier, not by MLflow.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Settings of this process, where the user has none of his own."""
_POLITENESS = 5


def main() -> int:
    """Run the courier. Returns the exit code."""
    if sys.stdin is None or sys.stdin.isatty():
        sys.stderr.write("A training starts the courier. By hand, `rldk-tracking sync FOLDER` sends what waits.\n")
        return 2
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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
