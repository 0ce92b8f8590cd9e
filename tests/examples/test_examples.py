"""Each example is run as its docstring says, in a folder of its own, and does what it claims."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NEEDS_PPO = pytest.mark.skipif(
    find_spec("trl.experimental") is None or find_spec("trl.experimental.ppo") is None,
    reason="this TRL has no PPOTrainer (trl.experimental.ppo)",
)


REAL = 'MODEL = "Qwen/Qwen2.5-0.5B-Instruct"\n'


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model of two layers and a tokenizer of bytes, as a hub would give them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    vocabulary = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def run(name: str, folder: Path, tiny: Path | None = None, *, launch: Sequence[str] = ()) -> str:
    """Standard output of the example, which must end without an error and within half a minute on an idle machine.

    Args:
        tiny: what stands for the model from the hub; the one line that is another than in the file.
        launch: the module that starts it, with its options.
    """
    script = EXAMPLES / name
    if tiny is not None:
        text = script.read_text(encoding="utf-8")
        assert text.count(REAL) == 1
        script = folder / name
        script.write_text(text.replace(REAL, f'MODEL = "{tiny.as_posix()}"\n'), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *launch, str(script)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_example_is_tested_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested} == set()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_it_says_how_to_run_it(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    assert f"python examples/{path.name}" in docstring


def test_names_of_models_are_real_ones() -> None:
    copied = [path.name for path in EXAMPLES.glob("*.py") if REAL in path.read_text(encoding="utf-8")]
    assert len(copied) >= 5
    for name in copied:
        assert "rldk_tracking.demo" not in (EXAMPLES / name).read_text(encoding="utf-8"), name


def runs_in(folder: Path) -> list[Any]:
    """Those of the MLflow store that the example has made."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sums")
    return [
        (found, sorted(point.step for point in client.get_metric_history(found.info.run_id, "rldk/reward/mean")))
        for found in client.search_runs([experiment.experiment_id])
    ]


def test_grpo_mlflow(tmp_path: Path, tiny: Path) -> None:
    shown = run("grpo_mlflow.py", tmp_path, tiny)
    assert "step 20: reward" in shown
    ((found, steps),) = runs_in(tmp_path)
    assert steps == list(range(1, 21))
    assert "rldk/kl/ref_k1" in found.data.metrics


def test_grpo_wandb(tmp_path: Path, tiny: Path) -> None:
    run("grpo_wandb.py", tmp_path, tiny)
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"rldk/reward/mean" in log.read_bytes()


def test_grpo_lora(tmp_path: Path, tiny: Path) -> None:
    pytest.importorskip("peft", reason="needs peft")
    shown = run("grpo_lora.py", tmp_path, tiny)
    assert "step 20: reward" in shown
    (journal,) = tmp_path.glob("grpo_output/_rldk/*.jsonl")
    keys = {key for line in lines_of(journal) if line["type"] == "metrics" for key in line["metrics"]}
    assert {"rldk/update/ratio/p50", "rldk/checkpoint/adapter_norm"} <= keys


@pytest.mark.ranks
def test_grpo_accelerate(tmp_path: Path, tiny: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    shown = run("grpo_accelerate.py", tmp_path, tiny, launch=launch)
    assert shown.count("2 processes, step 20") == 1
    ((found, steps),) = runs_in(tmp_path)
    assert steps == list(range(1, 21))
    assert found.data.metrics["rldk/system/rank_spread/weights"] == 0, "both ranks sent theirs"


def test_own_loop(tmp_path: Path, tiny: Path) -> None:
    shown = run("own_loop.py", tmp_path, tiny)
    assert "step 20: reward" in shown
    rows = [line for line in lines_of(tmp_path / "rldk_logs" / "run.jsonl") if line["type"] == "metrics"]
    assert any("rldk/diversity/unique_fraction" in row["metrics"] for row in rows)


@NEEDS_PPO
def test_basic_ppo_integration(tmp_path: Path) -> None:
    shown = run("basic_ppo_integration.py", tmp_path)
    assert "PPOMetrics(step=15" in shown
    rows = [line for line in lines_of(tmp_path / "rldk_logs" / "run.jsonl") if line["type"] == "metrics"]
    of_steps = [row for row in rows if "rldk/kl/ref_k1" in row["metrics"]]
    assert [row["step"] for row in of_steps] == list(range(1, 16)), "two monitors, one row a step"
    points = [(key, row["step"]) for row in rows for key in row["metrics"]]
    assert len(points) == len(set(points)), "what is known only at the end is in no other row"


@NEEDS_PPO
def test_advanced_monitoring_stops_at_the_nan(tmp_path: Path) -> None:
    shown = run("advanced_monitoring.py", tmp_path)
    assert "stopped: " in shown
    assert "rldk critical: nan." in shown
    assert list((tmp_path / "ppo_output").glob("checkpoint-*")), "it saved before it stopped"


def test_custom_callbacks(tmp_path: Path) -> None:
    shown = run("custom_callbacks.py", tmp_path)
    assert "solved at step" in shown
    assert "step 10: reward" in shown


def test_accelerate_loop(tmp_path: Path) -> None:
    shown = run("accelerate_loop.py", tmp_path)
    assert "1 processes, reward 0." in shown
    rows = [line for line in lines_of(tmp_path / "rldk_logs" / "run.jsonl") if line["type"] == "metrics"]
    of_steps = [row["step"] for row in rows if "rldk/reward/group_tied_fraction" in row["metrics"]]
    assert of_steps == list(range(1, 61))
