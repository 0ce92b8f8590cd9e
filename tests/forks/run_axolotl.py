"""`axolotl train` with a plugin that adds this package's callback, on a CPU, and what MLflow's store then holds.

In an environment of its own:

    python -m pip install torch==2.13.0 packaging==26.0 peft==0.20.0 transformers==5.16.1 accelerate==1.13.0 \
        datasets==4.8.4 trl==1.9.0 sentencepiece addict fire einops colorama numba typer==0.25.1 python-dotenv \
        schedulefree mistral-common==1.11.5 axolotl-contribs-lgpl==0.0.7 axolotl-contribs-mit==0.0.6 posthog==6.7.11 \
        art langdetect evaluate==0.4.1 scipy tensorboard wandb "mlflow>=3.8" -e .
    python -m pip install --no-deps axolotl==0.19.0 bitsandbytes==0.50.2 fastcore triton
    python tests/forks/run_axolotl.py
"""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from axolotl.integrations.base import BasePlugin
from result import Result, Training, compared, listen, said, stored

from rldk_tracking import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.sources.logs import Observation
from rldk_tracking.sources.trl_grpo import GroupSource

STEPS = 5
LOGGED = {
    "loss": "rldk/train/loss",
    "grad_norm": "rldk/grad/norm",
    "learning_rate": "rldk/update/learning_rate",
    "eval_loss": "rldk/eval/loss",
    "rewards/chosen": "rldk/preference/reward_chosen",
    "rewards/rejected": "rldk/preference/reward_rejected",
    "rewards/margins": "rldk/preference/margin",
    "rewards/accuracies": "rldk/preference/accuracy",
    "logps/chosen": "rldk/preference/chosen_logps",
    "reward": "rldk/reward/mean",
    "completions/mean_length": "rldk/length/mean",
    "completions/clipped_ratio": "rldk/length/truncated_fraction",
    "frac_reward_zero_std": "rldk/reward/group_tied_fraction",
}


class Bridge(BasePlugin):
    """What axolotl 0.19.0's async trainer needs without vLLM."""

    def pre_model_load(self, cfg: Any) -> None:
        """It does not know an argument and a value of TRL 1.9.0, its pin."""
        if not (cfg.trl and cfg.trl.use_data_producer):
            return
        from axolotl.core.trainers.grpo.async_trainer import AsyncGRPOTrainer

        original = AsyncGRPOTrainer._get_per_token_logps_and_entropies

        @functools.wraps(original)
        def bridged(self: Any, *args: Any, **kwargs: Any) -> Any:
            is_of_trl = "num_tiles" in kwargs
            kwargs.pop("num_tiles", None)
            found = original(self, *args, **kwargs)
            return (*found, None) if is_of_trl else found

        AsyncGRPOTrainer._get_per_token_logps_and_entropies = bridged


class Prefetch(Bridge):
    """What it needs to sample ahead (`async_prefetch`), which is when it hands scored rollouts to plugins.

    With RLDK_SHUT nothing is read of the trainer itself, so that what is there came that way.
    """

    def pre_model_load(self, cfg: Any) -> None:
        """It unpacks 7 values of the 8 that `_generate` of TRL 1.9.0 returns; one of them was the number of tokens."""
        super().pre_model_load(cfg)
        from axolotl.core.trainers.grpo.async_trainer import AsyncGRPOTrainer

        only, generate, here = AsyncGRPOTrainer._generate_only, AsyncGRPOTrainer._generate, threading.local()

        @functools.wraps(only)
        def generate_only(*args: Any, **kwargs: Any) -> Any:
            here.is_ahead = True
            try:
                return only(*args, **kwargs)
            finally:
                here.is_ahead = False

        @functools.wraps(generate)
        def of_seven(*args: Any, **kwargs: Any) -> Any:
            found = generate(*args, **kwargs)
            if len(found) == 7 or not getattr(here, "is_ahead", False):
                return found
            return (*found[:4], torch.tensor(sum(map(len, found[1]))), *found[4:6])

        AsyncGRPOTrainer._generate_only, AsyncGRPOTrainer._generate = generate_only, of_seven

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[RLDKCallback]:
        """It asks for two names that TRL's trainer no longer has."""
        for name in ("pad_token_id", "eos_token_id"):
            if not hasattr(trainer, name):
                setattr(trainer, name, getattr(trainer.processing_class, name))
        if os.environ.get("RLDK_SHUT"):
            GroupSource.read = lambda self, step, logs: Observation()
        return []


class RLDKPlugin(Bridge):
    """`plugins: [run_axolotl.RLDKPlugin]`."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[RLDKCallback]:
        """All that a user's plugin needs."""
        listen(Path(os.environ["RLDK_SAID"]))
        return [RLDKCallback(trainer=trainer)]


def digits(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
    """The demo's reward."""
    return reward(prompts, completions)


def as_it_is(cfg: Any, *_: Any, **__: Any) -> Callable[..., dict[str, Any]]:
    """Prompts that need no template."""

    def transform(example: dict[str, Any], tokenizer: Any = None) -> dict[str, Any]:
        return {"prompt": example["prompt"]}

    return transform


def configurations(folder: Path) -> dict[str, dict[str, Any]]:
    """What a user writes into the YAML file of a training, with a tiny model and texts made on the spot."""
    from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
    from rldk_tracking.demo.task import demonstrations

    tiny_model(vocab_size=64).save_pretrained(folder / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    pairs, worse = demonstrations(64, 0.4), demonstrations(64, 0.1)
    rows = [
        {"text": asked + text, "prompt": asked, "chosen": text, "rejected": other}
        for (asked, text), (_, other) in zip(pairs, worse, strict=True)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    common = {
        "base_model": str(folder / "model"),
        "plugins": ["run_axolotl.RLDKPlugin"],
        "sequence_len": 32,
        "micro_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "optimizer": "adamw_torch",
        "lr_scheduler": "constant",
        "logging_steps": 1,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "sdp_attention": True,
        "gradient_checkpointing": False,
        "use_mlflow": True,
        "mlflow_experiment_name": "tiny",
        "save_strategy": "no",
        "dataset_num_proc": 1,
        "device_map": "cpu",
        "special_tokens": {"pad_token": "<pad>", "eos_token": "<eos>"},
    }
    data = {"path": str(folder / "data.jsonl"), "ds_type": "json", "split": "train"}
    fields = {"field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected"}
    formats = {"prompt_format": "{prompt}", "chosen_format": "{chosen}", "rejected_format": "{rejected}"}
    grpo = {"beta": 0.04, "max_completion_length": 8, "num_generations": 4, "use_vllm": False}
    grpo["reward_funcs"] = ["run_axolotl.digits"]
    sampled = [{**data, "type": "run_axolotl.as_it_is"}]
    of_its_own: dict[str, dict[str, Any]] = {
        "SFT": {"datasets": [{**data, "type": "completion", "field": "text"}], "val_set_size": 0.1, "eval_steps": 2},
        "DPO": {"rl": "dpo", "datasets": [{**data, "type": fields | formats}]},
        "GRPO": {"rl": "grpo", "datasets": sampled, "trl": grpo},
        "async GRPO": {
            "rl": "grpo",
            "datasets": sampled,
            "trl": {**grpo, "use_data_producer": True},
        },
    }
    return {name: common | own for name, own in of_its_own.items()}


def logged(database: Path) -> dict[str, dict[int, float]]:
    """The trainer's own log, as MLflow has it, by this package's keys."""
    points: dict[str, dict[int, float]] = {}
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as store:
        for name, step, value in store.execute("select key, step, value from metrics"):
            if name in LOGGED:
                points.setdefault(LOGGED[name], {})[step] = value
    return points


def training(name: str, configuration: dict[str, Any], folder: Path) -> Training:
    """Run `axolotl train`, and read what came of it."""
    folder.mkdir()
    database = folder / "mlflow.db"
    address = f"sqlite:///{database}"
    places = {"output_dir": str(folder / "out"), "dataset_prepared_path": str(folder / "prepared")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**configuration, **places, "mlflow_tracking_uri": address}), encoding="utf-8")
    environment = os.environ | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "MLFLOW_TRACKING_URI": address,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "RLDK_SAID": str(folder / "said.jsonl"),
    }
    command = [str(Path(sys.executable).with_name("axolotl")), "train", str(path), "--launcher", "python"]
    with (folder / "log").open("wb") as output:
        done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    shown = f"axolotl train {name.lower().replace(' ', '-')}.yaml --launcher python"
    if done.returncode != 0:
        lines = (folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        return Training(name, shown, cannot=next((line for line in reversed(lines) if "Error:" in line), "see its log"))
    found = stored(database)
    count, differing = compared(found, logged(database))
    return Training(
        *(name, shown, done.returncode, len(found)),
        said=said(folder / "said.jsonl"),
        compared=count,
        differing=differing,
    )


def main(names: list[str]) -> None:
    """Run all or some, and write the result."""
    folder = Path(tempfile.mkdtemp())
    trainings = []
    for name, configuration in configurations(folder).items():
        if names and name not in names:
            continue
        trainings.append(training(name, configuration, folder / name.replace(" ", "-")))
        one = trainings[-1]
        sys.stdout.write(f"{name}: {one.cannot or one.series} series, {one.compared} compared, {one.said}\n")
        sys.stdout.flush()
        sys.stdout.writelines(f"  {line}\n" for line in one.differing[:8])
    result = Result(
        *("axolotl", date.today().isoformat(), "installed, its own command line"),
        {one: version(one) for one in ("axolotl", "trl", "transformers", "torch")},
        trainings,
        [
            "GRPO samples with transformers, without vLLM.",
            "Without vLLM the async trainer of 0.19.0 cannot be run as it is: it overrides "
            "`_get_per_token_logps_and_entropies` without the argument `num_tiles` and the third value that TRL 1.9.0, "
            "its pin, knows. The plugin of this run bridges that. With `async_prefetch` it unpacks 7 values of the 8 "
            "that TRL's `_generate` returns, and stops: this run has `use_data_producer` alone.",
        ],
    )
    result.write("axolotl")


if __name__ == "__main__":
    main(sys.argv[1:])
