"""Starting the trainings of `training.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def start(**options: Any) -> subprocess.CompletedProcess[str]:
    """Run a training to its end, whatever that is."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "faults" / "training.py"), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
        cwd=options["folder"],
    )


def steps_said(done: subprocess.CompletedProcess[str]) -> list[int]:
    """The steps that the training said were over."""
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("step ")]
