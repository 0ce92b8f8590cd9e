"""The command on real folders: what it prints, and what it returns."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rldk_tracking.cli.main import main

ROOT = Path(__file__).parents[2]


def _safetensors(header: Any) -> bytes:
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(8)


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


@pytest.mark.parametrize("option", ["--against", "--first", "--reference"])
def test_a_path_to_compare_with_that_is_not_there_is_an_error(
    option: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, empty = folder / "checkpoint-3", folder / "empty"
    empty.mkdir()
    torn = folder / "torn" / "model.safetensors"
    torn.parent.mkdir()
    torn.write_bytes((good / "model.safetensors").read_bytes()[:-5])
    for other, said in ((folder / "none", "holds no weights"), (empty, "holds no weights"), (torn.parent, "truncated")):
        assert main(["checkpoint", str(good), option, str(other)]) == 3
        captured = capsys.readouterr()
        assert str(other) in captured.err and said in captured.err and "verdict" not in captured.out


def state(folder: Path, step: int, **content: Any) -> None:
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(content))


def spoil(folder: Path, step: int) -> None:
    file = folder / f"checkpoint-{step}" / "model.safetensors"
    save_file({name: values * math.nan for name, values in load_file(file).items()}, file)


def last_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["checkpoint", str(folder)])
    return capsys.readouterr().out.splitlines()[-1]


def test_the_best_is_not_known_without_a_measure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert last_line(folder, capsys) == (
        "best: not known (no reward, evaluation or best_metric of the run lies here); latest: step 100; keep 100"
    )


def test_the_best_is_what_the_trainer_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(folder, 100, best_metric=0.75, best_global_step=20)
    assert last_line(folder, capsys).startswith("best: step 20 by the trainer's best_metric 0.75; latest: step 100")
    spoil(folder, 20)
    line = last_line(folder, capsys)
    assert line.startswith("best: not known") and "20" not in line.partition("keep")[2]


def test_the_best_by_the_reward_of_the_journal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "_rldk").mkdir()
    rewards = {2: 0.1, 10: 0.9, 20: 0.7, 50: 0.6}
    lines = [
        {"type": "metrics", "time": 0.0, "step": step, "metrics": {"rldk/reward/mean": reward}}
        for step, reward in rewards.items()
    ]
    (folder / "_rldk" / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_line(folder, capsys).startswith("best: step 20 by the mean reward since the checkpoint before, 0.8;")


def test_the_best_by_the_log_of_the_trainer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluations go before the reward of the training."""
    log = [{"step": 2, "reward": 0.1}, {"step": 15, "reward": 0.9}, {"step": 90, "reward": 0.5}]
    state(folder, 100, log_history=log)
    assert "best: step 20 by the mean reward since" in last_line(folder, capsys)
    state(folder, 100, log_history=[*log, {"step": 3, "eval_reward": 0.4}, {"step": 100, "eval_reward": 0.6}])
    assert "best: step 100 by the mean reward of the evaluations" in last_line(folder, capsys)


def test_nothing_is_kept_of_which_each_is_broken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (3, 20, 100):
        spoil(folder, step)
    assert last_line(folder, capsys).endswith("keep none of them: each lacks something, holds NaN, or was not read")


def test_the_advice_on_a_full_disk_leads_to_checkpoints_that_can_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "checkpoint.disk"]) == 0
    advice = " ".join(capsys.readouterr().out.split())
    assert "`rldk-tracking checkpoint DIR` says which are whole and without NaN" in advice
    for step in (3, 100):
        spoil(folder, step)
    assert last_line(folder, capsys).endswith("keep 20")


def test_names_cannot_write_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a\nverdict: healthy\x1b[2K": torch.tensor([math.nan])}, tmp_path / "model.safetensors")
    assert main(["checkpoint", str(tmp_path)]) == 2
    out = capsys.readouterr().out
    verdicts = [line.strip() for line in out.splitlines() if line.strip().startswith("verdict")]
    assert "\x1b" not in out and verdicts == ["verdict: critical"]


STRANGE: dict[str, bytes] = {
    "offsets": _safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, math.inf]}}),
    "header": _safetensors([1]),
    "deep": b"[" * 100_000,
    "empty": b"",
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "config.json"]
)
def test_no_file_ends_in_a_traceback(
    name: str, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "config.json":
        save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / name).write_bytes(content)
    assert main(["checkpoint", str(tmp_path)]) == 2
    assert name in capsys.readouterr().out


def test_vectors_are_read_from_a_file_of_vectors_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = folder / "notes.txt"
    mine.write_text("mine")
    assert main(["checkpoint", str(folder / "checkpoint-3"), "--vectors", str(mine)]) == 3
    assert "notes.txt holds no singular vectors" in capsys.readouterr().err
    assert mine.read_text() == "mine", "and not overwritten"


@pytest.mark.parametrize("arguments", [["--share", "abc"], ["--level", "deep"], ["--layers", "many"], []])
def test_a_wrong_option_is_said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["checkpoint", *arguments])
    assert "usage: rldk-tracking" in capsys.readouterr().err


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = str(folder / "checkpoint-3")
    assert main(["checkpoint", same, "--against", same]) == 1
    file = folder / "checkpoint-20" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["checkpoint", str(file.parent)]) == 2
    assert main(["checkpoint", str(folder / "nowhere")]) == 3
    assert main(["checkpoint", same, "--level", "light"]) == 4
    assert main(["checkpoint", str(folder), "--level", "light"]) == 2, "the torn one is worse"
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
