"""The command on real folders: what it prints, and what it returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rldk_tracking.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints, 10 % apart."""
    generator = torch.Generator().manual_seed(0)
    weights = {f"h.{i}.w": torch.randn(30, 40, generator=generator) for i in range(3)}
    for step in (100, 20, 3):
        path = tmp_path / f"checkpoint-{step}"
        path.mkdir()
        save_file(
            {n: w + 0.1 * torch.randn(30, 40, generator=generator) for n, w in weights.items()},
            path / "model.safetensors",
        )
    return tmp_path


def test_all_checkpoints_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", str(folder)]) == 0
    told = capsys.readouterr().out
    order = [told.index(f"checkpoint-{step}:") for step in (3, 20, 100)]
    assert order == sorted(order)
    assert "away from previous" in told and "away from first" in told
    assert "latest: step 100" in told


def test_one_against_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder / "checkpoint-20"), "--against", str(folder / "checkpoint-3"), "--format", "json"]
    assert main(["checkpoint", *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"] == "healthy"
    assert record["metrics"]["rldk/checkpoint/drift_previous"] == pytest.approx(0.14, abs=0.02)
    assert set(record["tensors"]) == {"h.0.w", "h.1.w", "h.2.w"}


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = str(folder / "checkpoint-3")
    assert main(["checkpoint", same, "--against", same]) == 1
    file = folder / "checkpoint-20" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["checkpoint", str(file.parent)]) == 2
    assert main(["checkpoint", str(folder / "nowhere")]) == 3
    assert "holds no weights" in capsys.readouterr().err


def test_without_torch(folder: Path) -> None:
    """It starts quickly and takes little memory, as the monitor that calls it needs."""
    script = (
        "import sys\n"
        "from rldk_tracking.cli.main import main\n"
        f"main(['checkpoint', {str(folder)!r}])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True)
