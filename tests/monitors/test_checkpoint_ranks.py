from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rldk_tracking.checkpoint.division import FOLDER


def test_two_ranks_divide_what_they_save(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("checkpoint_ranks_script.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    found = json.loads(line.removeprefix("found "))
    assert found["steps"] == [2, 4]
    assert found["shares"] == [[1], [1]]
    weights = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    norm = torch.cat([values.double().flatten() for values in weights.values()]).norm().item()
    assert found["norm"] == pytest.approx(norm, rel=1e-5)
    assert not (tmp_path / FOLDER).exists()
