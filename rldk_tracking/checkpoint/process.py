"""One scan in a process of its own.

A process keeps the interpreter lock, the threads of the linear algebra and the memory of the training to the training,
runs at a lower priority, and takes nothing with it should reading a file end it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rldk_tracking.checkpoint.findings import Level, Scan
from rldk_tracking.checkpoint.record import from_dict

NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What would make the process believe that it is a rank of the training."""
UNREADABLE = 3
"""Exit code of a scan that found nothing to read: the checkpoint is gone."""


class ScanProcess:
    """Runs scans one after the other.

    Args:
        level: of the scans. At "full" the singular vectors are kept in between, in a folder that `close` deletes.
    """

    def __init__(self, level: Level) -> None:
        self._level = level
        self._process: subprocess.Popen[str] | None = None
        self._terminated = False
        self._folder = tempfile.TemporaryDirectory(prefix="rldk-") if level == "full" else None

    def scan(self, path: Path, against: Mapping[str, Path], share: tuple[int, int] = (0, 1)) -> Scan | None:
        """Waits for the scan; None after `terminate`.

        Raises:
            FileNotFoundError: there are no weights at `path`.
            ValueError: the process ended without a result.
        """
        if self._terminated:
            return None
        command = [sys.executable, "-m", "rldk_tracking.checkpoint", str(path), "--format", "json", "--nice"]
        command += ["--level", self._level, "--share", f"{share[0]}/{share[1]}"]
        for label, other in against.items():
            command += [f"--{label}", str(other)]
        if self._folder is not None:
            command += ["--vectors", str(Path(self._folder.name) / f"vectors-{share[0]}.npz")]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
        )
        output, errors = self._process.communicate()
        code, self._process = self._process.returncode, None
        if self._terminated:
            return None
        if code == UNREADABLE:
            raise FileNotFoundError(errors.strip()[-500:])
        if not output:
            raise ValueError(errors.strip()[-500:] or f"its process ended with {code}")
        return from_dict(json.loads(output))

    def terminate(self) -> None:
        """End the scan that runs, and let none begin, from another thread."""
        self._terminated = True
        process = self._process
        if process is not None:
            process.terminate()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _environment() -> dict[str, str]:
    """The training's, without its place among the ranks and its devices, and with this package on the path."""
    kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [kept.get("PYTHONPATH")])])
    kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept
