"""Small real runs in many configurations, each trained once a session and read by every test that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
from rldk_tracking.demo.task import demonstrations, reward
from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer, rloo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.group_spy import EOS, PAD, GroupSpy
from tests.runs.ppo_spy import PPOSpy

STEPS = 4


@dataclass
class Ran:
    """A finished run: what the tracker holds, and what the test's own spy saw."""

    tracker: InMemoryTracker
    spy: Any
    trainer: Any

    def at(self, step: int) -> dict[str, float]:
        """The step's row in the tracker."""
        return {key: value for key, points in self.tracker.series.items() for at, value in points if at == step}


def shortness(completions: Sequence[str], **_: Any) -> list[float]:
    return [1.0 - len(completion) / 10 for completion in completions]


def sometimes(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float | None]:
    """Has no opinion on completions of an even length."""
    return [
        value if len(text) % 2 else None for value, text in zip(reward(prompts, completions), completions, strict=True)
    ]


def never(completions: Sequence[str], **_: Any) -> list[float | None]:
    return [None] * len(completions)


def tied(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """The same for all completions of a prompt: the best of all, the worst, or between."""
    return [
        {2: 1.0, 3: 0.0}.get(len(prompt), len(text) / 10) for prompt, text in zip(prompts, completions, strict=True)
    ]


@torch.no_grad()
def sample_elsewhere(prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
    """A sampling engine that is not quite the model: its log-probabilities are off by a tenth of a nat or so."""
    prompt_ids = [trainer.processing_class(prompt)["input_ids"] for prompt in prompts]
    completions, logprobs = [], []
    for ids in prompt_ids:
        sequence, own = list(ids), []
        while len(own) < trainer.args.max_completion_length and (not own or sequence[-1] not in (EOS, PAD)):
            logits = trainer.model(input_ids=torch.tensor([sequence])).logits[0, -1].log_softmax(dim=-1)
            sequence.append(int(torch.multinomial(logits.exp(), 1)))
            own.append(float(logits[sequence[-1]] + 0.3 * torch.randn(())))
        completions.append(sequence[len(ids) :])
        logprobs.append(own)
    return {"prompt_ids": prompt_ids, "completion_ids": completions, "logprobs": logprobs}


GROUP_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no reference": {"beta": 0.0, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 8},
    "iterations": {"num_iterations": 2, "epsilon": 0.02, "learning_rate": 1e-2},
    "generates often": {"steps_per_generation": 1, "beta": 0.1},
    "generates rarely": {"steps_per_generation": 4, "epsilon": 0.02, "temperature": 0.8},
    "functions": {
        "reward_funcs": [reward, shortness, sometimes],
        "reward_weights": [1.0, 0.3, -0.5],
        "temperature": 1.3,
        "pad_to_multiple_of": 8,
    },
    "watched": {"reward_funcs": [reward, shortness], "reward_weights": [1.0, 0.0], "beta": 0.0},
    "unscored": {"reward_funcs": [sometimes, never], "beta": 0.0},
    "ties": {"reward_funcs": tied, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "truncated": {"mask_truncated_completions": True, "max_completion_length": 5, "num_iterations": 2},
    "logs rarely": {"logging_steps": 3, "beta": 0.0},
}
"""For GRPO and RLOO alike."""

GRPO_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "asymmetric": {"loss_type": "dr_grpo", "num_iterations": 3, "epsilon": 0.01, "epsilon_high": 0.03},
    "cispo": {"loss_type": "cispo", "num_iterations": 2, "epsilon_high": 1.02, "scale_rewards": "none"},
    "sequences": {"importance_sampling_level": "sequence", "num_iterations": 2, "epsilon": 0.001},
    "entropy bonus": {"entropy_coef": 0.1, "num_iterations": 2},
    "sampler": {"rollout_func": sample_elsewhere, "beta": 0.0, "scale_rewards": "batch"},
}

CONFIGURATIONS = [
    *((kind, name) for kind in ("grpo", "rloo") for name in GROUP_CONFIGURATIONS),
    *(("grpo", name) for name in GRPO_CONFIGURATIONS),
]


def train_group(kind: str, name: str, folder: Path, **options: Any) -> Ran:
    """Train once. `options` are the callback's."""
    tracker, spy = InMemoryTracker(), GroupSpy()
    settings = dict((GROUP_CONFIGURATIONS | GRPO_CONFIGURATIONS)[name])
    if kind == "rloo":
        settings.pop("pad_to_multiple_of", None)
    rollout_func = settings.pop("rollout_func", None)
    callback = RLDKCallback(trackers=[tracker], **{"strict": True, **options})
    make = {"grpo": grpo_trainer, "rloo": rloo_trainer}[kind]
    trainer = make(folder, max_steps=STEPS, callbacks=[callback, spy], **settings)
    if rollout_func is not None:
        trainer.rollout_func = rollout_func
    spy.trainer = trainer
    trainer.train()
    return Ran(tracker, spy, trainer)


@pytest.fixture(scope="session")
def group_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Ran]:
    """`group_run("grpo", "plain")`: the finished run of a trainer in a configuration."""
    finished: dict[tuple[str, str], Ran] = {}

    def run(kind: str, name: str) -> Ran:
        if (kind, name) not in finished:
            finished[kind, name] = train_group(kind, name, tmp_path_factory.mktemp(kind))
        return finished[kind, name]

    return run


PPO_CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "minibatches": {"num_mini_batches": 4, "num_ppo_epochs": 3, "cliprange": 0.02, "cliprange_value": 0.01},
    "one step": {"num_mini_batches": 1, "num_ppo_epochs": 1},
    "accumulation": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 8, "temperature": 0.7},
    "rewards": {"whiten_rewards": True, "missing_eos_penalty": 1.0, "response_length": 5, "kl_coef": 0.3},
    "no stop token": {"stop_token": None, "kl_estimator": "k3", "gamma": 0.9},
}


def train_ppo(name: str, folder: Path, **options: Any) -> Ran:
    """Train once. `options` are the callback's."""
    try:
        from trl.experimental.ppo import ppo_trainer as module
    except ModuleNotFoundError:  # TRL up to 0.25
        from trl.trainer import ppo_trainer as module

    tracker, spy = InMemoryTracker(), PPOSpy(module.selective_log_softmax)
    callback = RLDKCallback(trackers=[tracker], **{"strict": True, **options})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "selective_log_softmax", spy.selective)
        trainer = ppo_trainer(folder, max_steps=STEPS, callbacks=[callback, spy], **PPO_CONFIGURATIONS[name])
        spy.trainer = trainer
        trainer.train()
    return Ran(tracker, spy, trainer)


class Logs(TrainerCallback):
    """What a trainer logged, by step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Any]] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.steps[state.global_step] = dict(logs)


PREFERENCE_STEPS = 7


def train_on_texts(kind: str, folder: Path) -> Ran:
    """Preference training and its relatives, on demonstrations that are mostly right and mostly wrong."""
    from datasets import Dataset

    good, bad = demonstrations(64, hit_rate=0.9, seed=1), demonstrations(64, hit_rate=0.1, seed=1)
    pairs = [{"prompt": p, "chosen": c, "rejected": r} for (p, c), (_, r) in zip(good, bad, strict=True)]
    texts = [{"text": prompt + completion} for prompt, completion in good]
    single = [{"prompt": p, "completion": c, "label": i % 2 == 0} for i, (p, c) in enumerate([*good, *bad])]
    trainer_class, config_class, data = {
        "dpo": ("trl.DPOTrainer", "trl.DPOConfig", pairs),
        "dpo same": ("trl.DPOTrainer", "trl.DPOConfig", [{**pair, "rejected": pair["chosen"]} for pair in pairs]),
        "kto": ("trl.KTOTrainer", "trl.KTOConfig", single),
        "orpo": ("trl.experimental.orpo.ORPOTrainer", "trl.experimental.orpo.ORPOConfig", pairs),
        "cpo": ("trl.experimental.cpo.CPOTrainer", "trl.experimental.cpo.CPOConfig", pairs),
        "sft": ("trl.SFTTrainer", "trl.SFTConfig", texts),
    }[kind]
    tracker, logs = InMemoryTracker(), Logs()
    settings = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
    args = resolve_name(config_class)(
        output_dir=str(folder),
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        max_steps=24 if kind == "dpo same" else PREFERENCE_STEPS,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        **settings,
    )
    trainer = resolve_name(trainer_class)(
        model=tiny_model(0),
        args=args,
        train_dataset=Dataset.from_list(data),
        processing_class=tiny_tokenizer(),
        callbacks=[RLDKCallback(trackers=[tracker], strict=True), logs],
        **({"ref_model": tiny_model(0)} if kind in ("dpo", "dpo same", "kto") else {}),
    )
    trainer.train()
    return Ran(tracker, logs, trainer)


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """`text_run("dpo")`: the finished run of a trainer that samples nothing."""
    finished: dict[str, Ran] = {}

    def run(kind: str) -> Ran:
        if kind not in finished:
            finished[kind] = train_on_texts(kind, tmp_path_factory.mktemp(kind))
        return finished[kind]

    return run


@pytest.fixture(scope="session")
def ppo_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """`ppo_run("plain")`: the finished run of PPO in a configuration. Skips where TRL has no PPO."""
    pytest.importorskip("trl.experimental.ppo", reason="PPOTrainer was removed from TRL in 1.13")
    finished: dict[str, Ran] = {}

    def run(name: str) -> Ran:
        if name not in finished:
            finished[name] = train_ppo(name, tmp_path_factory.mktemp("ppo"))
        return finished[name]

    return run
