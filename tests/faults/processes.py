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
    # With W&B's service of its own: in ours, which it would find by this variable, its run would outlive a kill.
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    environment = inherited | {"PYTHONPATH": str(ROOT)}
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
