"""LLaMA-Factory's `run_exp` with this package's callback, on a CPU, and what its trackers then hold.

In an environment of its own:

    python -m pip install torch==2.13.0 "transformers>=4.55,<=5.6.0" trl==0.24.0 "accelerate<=1.11.0" \
        "datasets<=4.0.0" "peft>=0.18,<=0.18.1" einops fastapi fire hf-transfer "matplotlib>=3.7" omegaconf pandas \
        protobuf pydantic scipy sentencepiece sse-starlette tiktoken "torchdata>=0.10,<=0.11" "tyro<0.9" uvicorn \
        tensorboard "mlflow>=3.8" -e .
    python -m pip install --no-deps llamafactory==0.9.5
    python tests/forks/run_llamafactory.py

Its PPO wants TRL 0.8.6 to 0.9.6, with which its own KTO cannot be imported, and a tokenizer of transformers 4. In a
copy of that environment:

    python -m pip install --no-deps trl==0.9.6 transformers==4.56.2 tokenizers==0.22.1 "huggingface-hub<1"
    python tests/forks/run_llamafactory.py
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import subprocess
import sys
import tempfile
import types
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from result import Result, Training, compared, listen, said, stored

STEPS = 6
IS_PPO = version("trl").startswith("0.9.")
STAGES = ("rm", "ppo") if IS_PPO else ("sft", "rm", "dpo", "kto")
CHOSEN = {"chosen": "chosen", "rejected": "rejected"}
COLUMNS = {"dpo": CHOSEN, "rm": CHOSEN, "kto": {"response": "output", "kto_tag": "kto_tag"}}
LOGGED = {
    "loss": "rldk/train/loss",
    "reward": "rldk/reward/mean",
    "grad_norm": "rldk/grad/norm",
    "learning_rate": "rldk/update/learning_rate",
    "rewards/chosen": "rldk/preference/reward_chosen",
    "rewards/rejected": "rldk/preference/reward_rejected",
    "rewards/margins": "rldk/preference/margin",
    "rewards/accuracies": "rldk/preference/accuracy",
    "logps/chosen": "rldk/preference/chosen_logps",
    "logps/rejected": "rldk/preference/rejected_logps",
}
MISSING = {
    "rm": {"which it does not log": ["rldk/preference/accuracy", "rldk/preference/margin"]},
    "ppo": {
        "which neither its log nor what its `step` returns has": [
            "rldk/advantage/std",
            "rldk/diversity/distinct_2",
            "rldk/kl/ref_k1",
            "rldk/length/mean",
            "rldk/policy/clip_fraction",
            "rldk/policy/entropy",
            "rldk/value/explained_variance",
        ]
    },
}


def arguments(stage: str, folder: Path) -> dict[str, Any]:
    """What a user writes into the YAML file of a training, with a tiny model and texts made on the spot."""
    from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
    from rldk_tracking.demo.task import demonstrations

    tiny_model(warm_steps=0).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    pairs, worse = demonstrations(64, 0.4), demonstrations(64, 0.1)
    rows = [
        {"instruction": asked, "input": "", "output": text, "chosen": text, "rejected": other, "kto_tag": i % 2 == 0}
        for i, ((asked, text), (_, other)) in enumerate(zip(pairs, worse, strict=True))
    ]
    (folder / "data").mkdir()
    (folder / "data" / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "input", "response": "output"} | COLUMNS.get(stage, {})
    info = {"file_name": "data.json", "ranking": stage in ("dpo", "rm"), "columns": columns}
    (folder / "data" / "dataset_info.json").write_text(json.dumps({"tiny": info}), encoding="utf-8")
    made = {
        "stage": stage,
        "do_train": True,
        "model_name_or_path": str(folder / "model"),
        "finetuning_type": "full",
        "template": "empty",
        "dataset": "tiny",
        "dataset_dir": str(folder / "data"),
        "cutoff_len": 32,
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    if stage == "ppo":
        # "PPO only accepts wandb, tensorboard, or trackio logger."
        made |= {"report_to": ["tensorboard"], "logging_dir": str(folder / "tensorboard"), "ppo_buffer_size": 2}
        made |= {"reward_model": str(folder.parent / "rm" / "out"), "reward_model_type": "full", "max_new_tokens": 8}
    else:
        made |= {"report_to": ["mlflow"], "val_size": 16, "eval_strategy": "steps", "eval_steps": 3}
    return made


def train(stage: str, folder: Path) -> None:
    """One training, as a user's script starts it."""
    import transformers  # noqa: F401  before something stands in for what it looks for

    audio = types.ModuleType("torchaudio")
    audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = audio
    if IS_PPO:
        import trl.models.utils

        trl.models.utils.prepare_deepspeed = trl.models.utils.prepare_fsdp = None
    from llamafactory.train.tuner import run_exp

    from rldk_tracking import RLDKCallback

    listen(folder / "said.jsonl")
    run_exp(arguments(stage, folder), callbacks=[RLDKCallback()])


def journalled(path: Path) -> dict[str, dict[int, float]]:
    """The series of a run's journal."""
    series: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for key, value in record["metrics"].items() if record["type"] == "metrics" else ():
            series.setdefault(key, {})[record["step"]] = value
    return series


def expected(folder: Path) -> dict[str, dict[int, float]]:
    """The trainer's own log, by this package's keys."""
    history = json.loads((folder / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    points: dict[str, dict[int, float]] = {}
    steps = range(1, len(history) + 1) if IS_PPO and folder.name == "ppo" else [entry["step"] for entry in history]
    for step, entry in zip(steps, history, strict=True):
        for name, key in LOGGED.items():
            if name in entry and "loss" in entry:
                points.setdefault(key, {})[step] = entry[name]
        if "eval_loss" in entry:
            points.setdefault("rldk/eval/loss", {})[step] = entry["eval_loss"]
    return points


def training(stage: str, folder: Path, exit_code: int) -> Training:
    """What came of it."""
    is_ppo = stage == "ppo"
    found = journalled(folder / "out" / "_rldk" / "run.jsonl") if is_ppo else stored(folder / "mlflow.db")
    count, differing = compared(found, expected(folder), tolerance=1e-4)
    missing = {why: [key for key in keys if key not in found] for why, keys in MISSING.get(stage, {}).items()}
    return Training(
        *(stage.upper(), f"run_exp({{'stage': '{stage}', ...}}, callbacks=[RLDKCallback()])", exit_code, len(found)),
        missing={why: keys for why, keys in missing.items() if keys},
        said=said(folder / "said.jsonl"),
        compared=count,
        differing=differing,
    )


def main() -> None:
    """Run all, and write the result."""
    folder = Path(tempfile.mkdtemp())
    trainings = []
    for stage in STAGES:
        (folder / stage).mkdir()
        stores = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / stage}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "tiny"}
        environment = os.environ | stores | ({"DISABLE_VERSION_CHECK": "1"} if IS_PPO else {})
        command = [sys.executable, __file__, stage, str(folder / stage)]
        with (folder / f"{stage}.log").open("wb") as output:
            done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        trainings.append(training(stage, folder / stage, done.returncode))
        one = trainings[-1]
        sys.stdout.write(f"{stage}: {one.series} series, {one.compared} compared, {one.said}\n")
        sys.stdout.writelines(f"  {line}\n" for line in one.differing[:5])
    notes = ["`torchaudio` is stubbed: it is imported for audio alone, and its wheels need CUDA."]
    if IS_PPO:
        trainings = trainings[1:]
        notes.append(
            "It wants TRL 0.8.6 to 0.9.6, with which it cannot be imported: `prepare_deepspeed` and `prepare_fsdp`, "
            "which its KTO imports, are set to None, and the version check is off. It opens a run of W&B, or "
            "none: with TensorBoard the series are in the run's journal."
        )
    names = ("llamafactory", "trl", "transformers", "torch")
    result = Result(
        *("LLaMA-Factory", date.today().isoformat(), "installed, its `run_exp`", {one: version(one) for one in names}),
        *(trainings, notes),
    )
    result.write("llamafactory_ppo" if IS_PPO else "llamafactory")


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
