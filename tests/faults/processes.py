"""Starting the trainings of `training.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start(world_size: int = 1, timeout: float = 200, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a training to its end, whatever that is."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world_size}"] if world_size > 1 else []
    return subprocess.run(
        [sys.executable, *ranks, str(ROOT / "tests" / "faults" / "training.py"), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
        cwd=options["folder"],
    )


def steps_said(done: subprocess.CompletedProcess[str]) -> list[int]:
    """The steps that the training said were over."""
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("step ")]
