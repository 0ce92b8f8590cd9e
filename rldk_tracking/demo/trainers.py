"""TRL trainers on the tiny model and its task, on the CPU, without a hub.

Each factory takes any field of the trainer's configuration as a keyword, so a test can ask for minibatches, iterations
or a KL penalty and leave the rest to the defaults here.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rldk_tracking.demo.model import LONGEST_COMPLETION, VOCABULARY, tiny_config, tiny_model, tiny_tokenizer
from rldk_tracking.demo.task import ASK, WANTED, prompts, reward

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, Trainer, TrainerCallback

Reward = Callable[..., Sequence[float | None]]


def grpo_trainer(
    output_dir: str | Path,
    *,
    report_to: str | list[str] = "none",
    max_steps: int = 40,
    callbacks: Sequence[TrainerCallback] = (),
    reward_funcs: Reward | list[Reward] = reward,
    model: PreTrainedModel | None = None,
    seed: int = 0,
    **config: Any,
) -> Trainer:
    """GRPO with 32 completions a step, 8 for each of 4 prompts; one step takes about a tenth of a second."""
    from trl import GRPOConfig, GRPOTrainer

    settings = {"beta": 0.02, **_group_settings(output_dir, report_to, max_steps, seed), **config}
    return GRPOTrainer(
        model=_on_disk(model if model is not None else tiny_model(seed), output_dir),
        reward_funcs=reward_funcs,
        args=GRPOConfig(**settings),
        train_dataset=_dataset(seed),
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
    )


def rloo_trainer(
    output_dir: str | Path,
    *,
    report_to: str | list[str] = "none",
    max_steps: int = 40,
    callbacks: Sequence[TrainerCallback] = (),
    reward_funcs: Reward | list[Reward] = reward,
    model: PreTrainedModel | None = None,
    seed: int = 0,
    **config: Any,
) -> Trainer:
    """RLOO with 32 completions a step, 8 for each of 4 prompts. Needs TRL 0.22 or newer."""
    from trl import RLOOConfig, RLOOTrainer

    settings = {"beta": 0.02, **_group_settings(output_dir, report_to, max_steps, seed), **config}
    return RLOOTrainer(
        model=_on_disk(model if model is not None else tiny_model(seed), output_dir),
        reward_funcs=reward_funcs,
        args=RLOOConfig(**settings),
        train_dataset=_dataset(seed),
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
    )


def ppo_trainer(
    output_dir: str | Path,
    *,
    report_to: str | list[str] = "none",
    max_steps: int = 40,
    callbacks: Sequence[TrainerCallback] = (),
    model: PreTrainedModel | None = None,
    ref_model: PreTrainedModel | None = None,
    seed: int = 0,
    **config: Any,
) -> Trainer:
    """PPO with 32 completions a step, in two minibatches of two micro-batches each. Needs TRL 1.12 or older.

    The reward model computes the task's reward from the tokens; the value model learns.
    """
    from transformers import Qwen2ForSequenceClassification, set_seed

    try:
        from trl.experimental.ppo import PPOConfig, PPOTrainer
    except ModuleNotFoundError:  # TRL up to 0.25
        from trl import PPOConfig, PPOTrainer

    settings = {
        **_common_settings(output_dir, report_to, seed),
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 4,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "local_rollout_forward_batch_size": 32,
        "response_length": LONGEST_COMPLETION,
        "stop_token": "eos",
        "temperature": 1.0,
        "kl_coef": 0.02,
        "num_sample_generations": 0,
        **config,
    }
    # Its trainer shuffles with NumPy and seeds only torch.
    set_seed(seed)
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    settings.setdefault("total_episodes", batch * int(os.environ.get("WORLD_SIZE", "1")) * max_steps)
    policy = model if model is not None else tiny_model(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value_config = tiny_config(policy.config.vocab_size)
        value_config.num_labels = 1  # type: ignore[attr-defined]
        value_model = Qwen2ForSequenceClassification(value_config)
    return PPOTrainer(
        args=PPOConfig(**settings),
        processing_class=tiny_tokenizer(),
        model=policy,
        ref_model=ref_model if ref_model is not None else copy.deepcopy(policy),
        reward_model=DigitReward(),
        value_model=value_model,
        train_dataset=_tokenized(seed),
        callbacks=list(callbacks),
    )


class DigitReward(nn.Module):
    """The task's reward in the shape of a reward model: a backbone that gives hidden states, and a head.

    At position t the score is the reward of the response up to t, so a trainer that reads it at the last token gets
    the reward of the whole.
    """

    base_model_prefix = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _DigitCounter()
        self.score = nn.Identity()


class _DigitCounter(nn.Module):
    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """(B, L) token ids to hidden states of shape (B, L, 1)."""
        is_digit = (input_ids > 1) & (input_ids < VOCABULARY.index(ASK))
        asked = (input_ids == VOCABULARY.index(ASK)).float().argmax(dim=1, keepdim=True)
        expected = input_ids.gather(1, (asked - 1).clamp(min=0))
        response = torch.arange(input_ids.shape[1], device=input_ids.device) > asked
        characters = (response & (input_ids > 1)).cumsum(dim=1)
        hits = (response & is_digit & (input_ids == expected)).cumsum(dim=1)
        rewards = hits.clamp(max=WANTED) / characters.clamp(min=WANTED)
        return SimpleNamespace(hidden_states=(rewards.unsqueeze(-1),))


def _common_settings(output_dir: str | Path, report_to: str | list[str], seed: int) -> dict[str, Any]:
    return {
        "output_dir": str(output_dir),
        "report_to": report_to,
        "seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
    }


def _group_settings(output_dir: str | Path, report_to: str | list[str], max_steps: int, seed: int) -> dict[str, Any]:
    return {
        **_common_settings(output_dir, report_to, seed),
        "max_steps": max_steps,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "num_generations": 8,
        "max_completion_length": LONGEST_COMPLETION,
        "temperature": 1.0,
    }


def _on_disk(model: PreTrainedModel, output_dir: str | Path) -> PreTrainedModel:
    """The model, with a copy that the trainer can load its reference from; one a rank, since ranks write at once."""
    folder = Path(output_dir) / "initial_model" / os.environ.get("RANK", "0")
    model.save_pretrained(folder)
    model.config._name_or_path = str(folder)
    return model


def _dataset(seed: int) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict({"prompt": prompts(512, seed)})


def _tokenized(seed: int) -> Dataset:
    from datasets import Dataset

    tokenizer = tiny_tokenizer()
    return Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in prompts(512, seed)]})
