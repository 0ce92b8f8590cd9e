"""`python -m rldk_tracking.checkpoint DIR`: one scan, printed as one JSON object; what `background` starts.

The exit code is 3 where there are no weights at DIR. People use `rldk-tracking checkpoint`, which says more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rldk_tracking.checkpoint.background import UNREADABLE
from rldk_tracking.checkpoint.findings import LEVELS
from rldk_tracking.checkpoint.scan import load_vectors, save_vectors, scan


def main() -> int:
    """Scan as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rldk_tracking.checkpoint", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--level", choices=LEVELS, default="standard")
    parser.add_argument("--against", nargs=2, action="append", default=[], metavar=("LABEL", "DIR"))
    parser.add_argument("--vectors", type=Path, help="a file of singular vectors, which are read and replaced")
    arguments = parser.parse_args()
    if hasattr(os, "nice"):  # the training goes first
        os.nice(10)
    start = load_vectors(arguments.vectors)
    try:
        found = scan(arguments.path, dict(arguments.against), level=arguments.level, vectors=start)
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return UNREADABLE
    if arguments.vectors is not None:
        save_vectors(arguments.vectors, found.vectors)
    json.dump(found.to_dict(), sys.stdout, allow_nan=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
