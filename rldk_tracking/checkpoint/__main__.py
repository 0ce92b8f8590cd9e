"""`python -m rldk_tracking.checkpoint`: scans for a training, which `background` starts and asks.

Each line of the input is a JSON object with the checkpoint's `path` and `against`, label to another one. For each, one
line is written: the scan, or `{"missing": why}` where there are no weights. It ends with its input, and when nothing
was asked for a while, so that nothing stays where nobody ends the training. People use `rldk-tracking checkpoint`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from rldk_tracking.checkpoint.findings import LEVELS, Level
from rldk_tracking.checkpoint.scan import scan

IDLE_S = 120.0
"""Without an order, the process ends; the next one starts another."""


def main() -> int:
    """Scan what is asked for until there is no more to come; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rldk_tracking.checkpoint", description=__doc__)
    parser.add_argument("--level", choices=LEVELS, default="standard")
    level = parser.parse_args().level
    if hasattr(os, "nice"):  # the training goes first
        os.nice(10)
    vectors: dict[str, Any] = {}
    while line := _next_line():
        json.dump(_answer(json.loads(line), level, vectors), sys.stdout, allow_nan=False)
        sys.stdout.write("\n")
        sys.stdout.flush()
    return 0


def _next_line() -> str:
    idle = threading.Timer(IDLE_S, os._exit, (0,))
    idle.daemon = True
    idle.start()
    try:
        return sys.stdin.readline()
    finally:
        idle.cancel()


def _answer(request: dict[str, Any], level: Level, vectors: dict[str, Any]) -> dict[str, Any]:
    """One scan, begun at the singular vectors of the one before, which it replaces."""
    try:
        found = scan(Path(request["path"]), request["against"], level=level, vectors=vectors)
    except (FileNotFoundError, ImportError) as error:
        return {"missing": str(error)}
    vectors |= found.vectors
    return found.to_dict()


if __name__ == "__main__":
    sys.exit(main())
