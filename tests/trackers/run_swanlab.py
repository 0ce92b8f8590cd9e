"""A training under SwanLab's own client, which keeps its run in a folder: what it has stored of ours.

Run in an environment with swanlab: `python -m tests.trackers.run_swanlab FOLDER`. Results: docs/trackers.md.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import swanlab

from rldk_tracking.health.rule import Rule
from tests.trackers.training import LastRow, train


def main(folder: Path) -> None:
    """Train, and print the series' names, the last series' steps, and the texts."""
    always = Rule(id="mine.step", keys=("rldk/train/loss",), condition="level", parameters={"threshold": -1.0})
    # transformers' callback asks for a run, and a client from 0.10 on raises where there is none.
    swanlab.init(project="tests", mode="local", logdir=str(folder / "runs"))
    train(folder, "swanlab", LastRow(), rules=[always])
    swanlab.finish()
    (log,) = folder.glob("runs/run-*/run-*.swanlab")
    names = sorted(set(re.findall(rb"(?:train/)?rldk/[a-z_/.0-9]+", log.read_bytes())))
    print(f"swanlab {swanlab.__version__}: {len(names)} names:", *(name.decode() for name in names))
    for path in sorted(log.parent.glob("logs/*/*.log")):
        points = [json.loads(line) for line in path.read_text().splitlines()]
        print(path.parent.name, [(point["index"], point["data"]) for point in points])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
