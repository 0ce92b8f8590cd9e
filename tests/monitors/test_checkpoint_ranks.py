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

pytestmark = pytest.mark.ranks


def test_only_the_first_of_two_ranks_scans(tmp_path: Path) -> None:
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
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first["scanned"] == ["checkpoint-2", "checkpoint-4"]
    assert first["history"] == [2, 4]
    assert second == {"scanned": [], "history": [], "norms": []}
    weights = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    norm = torch.cat([values.double().flatten() for values in weights.values()]).norm().item()
    assert first["norms"][-1] == pytest.approx(norm, rel=1e-5)
