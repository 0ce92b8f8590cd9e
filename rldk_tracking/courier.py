"""The courier's process: `python -m rldk_tracking.courier`, started by a training, or with a journal by hand.

Without arguments it reads from its standard input which journals to follow, see `rldk_tracking.journal.courier`. With
the path of a journal it sends that one in the foreground, as `rldk-tracking sync` does.
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


def main(arguments: list[str]) -> int:
    """Run the courier. Returns the exit code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if arguments:
        from rldk_tracking.cli.main import main as command

        return command(["sync", *arguments])
    from rldk_tracking.journal.courier import serve

    logging.raiseExceptions = False
    if hasattr(os, "nice"):
        os.nice(_POLITENESS)  # the training goes first
    serve(sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
