"""GRPO and DPO by ms-swift's own command line on a CPU, with the callback in it, and the tracker's store read back.

In an environment of its own:

    python -m pip install torch==2.13.0 ms-swift==4.6.0 msgspec -e ".[mlflow]"
    python -m tests.forks.run_swift
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rldk_tracking.metrics.preference import LOGGED as PREFERENCES
from tests.forks.oracle import LOGGED, expected
from tests.forks.result import ROOT, Result, Training, compared, said, stored

STEPS = 4
SHARED = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
}
GRPO = {"num_generations": 4, "max_completion_length": 10, "temperature": 1.0, "beta": 0.04}
SETTINGS = (
    "--model model --model_type qwen2 --template dummy --tuner_type full --torch_dtype float32 --use_cpu true "
    "--external_plugins plugin.py --callbacks rldk --report_to mlflow --logging_steps 1 --save_strategy no "
    "--max_length 64 --output_dir output --add_version false --dataset_num_proc 1 --load_from_cache_file false"
)
"""Of both trainings; the first two lines are what a CPU and a model without a name need."""

PLUGIN = """\
from rldk_tracking import RLDKCallback
from rldk_tracking.demo.task import reward
from swift.callbacks import callbacks_map
from swift.rewards import ORM, orms

from tests.forks.run_swift import watched


class Digits(ORM):
    def __call__(self, completions, question, **kwargs):
        return reward(question, completions)


orms["digits"] = Digits
callbacks_map["rldk"] = lambda args, trainer: watched(trainer) and RLDKCallback()
"""
"""A user's file, but for what is watched."""

OF_LOG = {
    "rldk/reward/mean": "reward",
    "rldk/reward/function/Digits/mean": "rewards/Digits/mean",
    "rldk/length/mean": "completions/mean_length",
    "rldk/length/truncated_fraction": "completions/clipped_ratio",
}
REASONS = {
    "rldk/policy/entropy": "which ms-swift computes with `--log_entropy true` only",
    "rldk/train/": "which neither ms-swift's DPO nor its log has",
    "rldk/health/": "since what the rules of this family judge is missing",
}


def watched(trainer: Any) -> bool:
    """In ms-swift's process: note each rollout from the trainer's own tensors, and this package's warnings."""
    from tests.forks.oracle import note
    from tests.forks.result import listen

    listen(Path("said.jsonl"))
    sample = getattr(trainer, "_generate_and_score_completions", None)
    if sample is None:
        return True

    def generate_and_score_completions(inputs: Any) -> Any:
        output = sample(inputs)
        batches = [one["grpo_batch"] for one in output]
        masks = [mask.bool() for batch in batches for mask in batch.completion_mask]

        def of_tokens(name: str) -> list[list[float]]:
            rows = [row for batch in batches for row in getattr(batch, name)]
            return [row[mask].tolist() for row, mask in zip(rows, masks, strict=True)]

        note(
            Path("rollouts.jsonl"),
            {
                "step": trainer.state.global_step + 1,
                "num_generations": trainer.num_generations,
                "rewards": trainer._rewards_per_func.sum(dim=1).tolist(),
                "advantages": [row[0] for row in of_tokens("advantages")],
                "lengths": [int(mask.sum()) for mask in masks],
                "truncated": [flag for batch in batches for flag in batch.truncated_mask.tolist()],
                "policy": of_tokens("old_per_token_logps"),
                "reference": of_tokens("ref_per_token_logps"),
            },
        )
        return output

    trainer._generate_and_score_completions = generate_and_score_completions
    return True


def prepare(folder: Path) -> None:
    """The model, the data and the plugin."""
    from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
    from rldk_tracking.demo.task import demonstrations, prompts

    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["a"])  # ms-swift asks each tokenizer for this letter
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }}"
        "{% if message['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    )
    tokenizer.save_pretrained(folder / "model")
    tiny_model(0, vocab_size=16).save_pretrained(folder / "model")
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    asked = [{"messages": [{"role": "user", "content": text}], "question": text} for text in prompts(64)]
    _write(folder / "grpo.jsonl", asked)
    good, bad = demonstrations(64, hit_rate=0.9), demonstrations(64, hit_rate=0.1)
    pairs = [
        {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": chosen}],
            "rejected_response": rejected,
        }
        for (question, chosen), (_, rejected) in zip(good, bad, strict=True)
    ]
    _write(folder / "dpo.jsonl", pairs)


def _write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def command(kind: str, **settings: Any) -> str:
    """As a user would type it."""
    own = " ".join(f"--{name} {value}" for name, value in {**SHARED, **settings}.items())
    own = f"--reward_funcs digits {own}" if kind == "grpo" else own
    return f"swift rlhf --rlhf_type {kind} --dataset {kind}.jsonl {own} {SETTINGS}"


def run(folder: Path, *words: str) -> int:
    """Run it in the folder, with nothing asked of the network, and its metrics into a store of their own."""
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HF": "1"}
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **quiet, **offline, **store}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(words, cwd=folder, env=environment, stdout=log, stderr=log, timeout=900)
    if done.returncode:
        print("".join((folder / "log.txt").read_text(encoding="utf-8").splitlines(keepends=True)[-30:]))
    return done.returncode


def stock(kind: str) -> None:
    """The same training with TRL's own trainer, in the current folder."""
    from rldk_tracking import RLDKCallback
    from rldk_tracking.demo.trainers import grpo_trainer

    shared = {**SHARED, "report_to": "mlflow", "callbacks": [RLDKCallback()]}
    if kind == "grpo":
        grpo_trainer("output", **shared, **GRPO).train()
        return
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from rldk_tracking.demo.model import tiny_model, tiny_tokenizer

    rows = [json.loads(line) for line in Path("dpo.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [
        {
            "prompt": row["messages"][0]["content"],
            "chosen": row["messages"][1]["content"],
            "rejected": row["rejected_response"],
        }
        for row in rows
    ]
    callbacks = shared.pop("callbacks")
    arguments = DPOConfig("output", **shared, logging_steps=1, save_strategy="no", use_cpu=True, bf16=False)
    DPOTrainer(
        model=tiny_model(0, vocab_size=16),
        ref_model=tiny_model(0, vocab_size=16),
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tiny_tokenizer(),
        callbacks=callbacks,
    ).train()


def trained(place: Path, kind: str, settings: dict[str, Any]) -> Training:
    """Both trainings, read back and compared."""
    folder, beside = place / kind, place / f"{kind}-stock"
    for one in (folder, beside):
        one.mkdir()
        prepare(one)
    line = command(kind, **settings)
    program, *words = line.split()
    code = run(folder, str(Path(sys.executable).with_name(program)), *words)
    training = Training(kind.upper(), line, code)
    if code or run(beside, sys.executable, "-m", "tests.forks.run_swift", kind):
        return training
    series, usual = stored(folder / "mlflow.db"), stored(beside / "mlflow.db")
    logged = stored(folder / "mlflow.db", "")
    training.series, training.stock = len(series), len(usual)
    for key in sorted({key.replace("/function/reward/", "/function/Digits/") for key in usual} - series.keys()):
        reason = next((why for start, why in REASONS.items() if key.startswith(start)), "not explained")
        training.missing.setdefault(reason, []).append(key)
    names = {**LOGGED, **(OF_LOG if kind == "grpo" else {key: name for name, key in PREFERENCES.items()})}
    numbers = {key: logged[name] for key, name in names.items() if name in logged}
    parts = [compared(series, {k: {s: v for s, v in p.items() if s <= STEPS} for k, p in numbers.items()})]
    if kind == "grpo":
        parts.append(compared(series, expected(folder / "rollouts.jsonl")))
    training.compared = sum(count for count, _ in parts)
    training.differing = [sentence for _, differing in parts for sentence in differing]
    training.said = said(folder / "said.jsonl")
    return training


def main() -> int:
    """Run both, and write the result file."""
    if sys.argv[1:]:
        stock(sys.argv[1])
        return 0
    place = Path(tempfile.mkdtemp(prefix="rldk-swift-"))
    trainings = [trained(place, "grpo", GRPO), trained(place, "dpo", {"beta": 0.1})]
    names = ("ms-swift", "trl", "transformers", "torch", "mlflow")
    result = Result(
        "ms-swift",
        date.today().isoformat(),
        "installed, its own command line on a CPU",
        {name: version(name) for name in names},
        trainings,
        [
            "ms-swift 4.6.0 imports `msgspec` and does not ask for it: install it beside.",
            "Needed for a CPU: `--use_cpu true`, `--torch_dtype float32`, and no `--use_vllm`.",
            "Its log's `reward_std` is the mean spread within groups, `rldk/reward/group_std_mean`; `rldk/reward/std` "
            "is computed from the rewards. Its log's `kl` is a mean of micro-batches' means, `rldk/kl/ref_k3` one over "
            "all tokens.",
        ],
    )
    print(result.write("ms-swift"))
    return int(any(one.exit_code or one.differing or "not explained" in one.missing for one in trainings))


if __name__ == "__main__":
    sys.exit(main())
