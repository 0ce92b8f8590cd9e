"""Names that hand-written loops, notebooks and older scripts give to the quantities of the catalogue.

Only past runs are read by them: a live custom loop hands over its rollout instead. They apply where no trainer's own
name was found for the same key, and they are spellings, not guesses: what could mean two things is not here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rldk_tracking.sources.aliases import NAN_COUNTERS
from rldk_tracking.sources.logs import number

_BY_KEY: dict[str, tuple[str, ...]] = {
    "rldk/reward/mean": ("reward_mean", "mean_reward", "reward/mean", "avg_reward", "average_reward", "train_reward"),
    "rldk/reward/std": ("reward/std", "std_reward", "train_reward_std"),
    "rldk/reward/min": ("reward_min", "reward/min", "min_reward"),
    "rldk/reward/max": ("reward_max", "reward/max", "max_reward"),
    "rldk/reward/gold": ("gold_reward", "true_reward", "reward/gold", "reward/true"),
    "rldk/eval/reward": ("val_reward", "test_reward", "eval/reward"),
    "rldk/eval/perplexity": ("eval_perplexity", "eval/perplexity", "val_perplexity"),
    "rldk/eval/accuracy": ("eval_rewards/accuracies", "eval_accuracy"),
    "rldk/kl/ref_k1": ("kl_ref", "kl_mean", "mean_kl", "kl_divergence", "ref_kl", "kl_to_ref"),
    "rldk/policy/entropy": ("policy/entropy", "entropy_mean", "mean_entropy", "policy_entropy"),
    "rldk/policy/clip_fraction": ("clip_frac", "clipfrac", "clip_fraction", "pg_clipfrac"),
    "rldk/length/mean": (
        "seq_len_mean", "avg_len", "avg_length", "mean_length", "avg_response_len", "response_length_mean",
        "completion_tokens", "completion_length_mean",
    ),
    "rldk/update/learning_rate": ("learning_rate", "optim/lr", "lr"),
    "rldk/train/loss": ("actor_loss", "policy_loss", "pg_loss", "train_loss", "dpo_loss", "loss/total", "total_loss"),
    "rldk/value/loss": ("value_loss", "vf_loss", "critic_loss"),
    "rldk/value/explained_variance": ("explained_variance", "explained_var"),
    "rldk/grad/norm": ("gradient_norm", "optim/grad_norm", "grad/norm"),
    "rldk/preference/margin": ("reward_margin", "reward_margins", "margins"),
}  # fmt: skip

NAMES: dict[str, str] = {name: key for key, names in _BY_KEY.items() for name in names}


def plain(name: str) -> str:
    """Lower case, without a prefix for training, words joined by underscores: `Avg Response Len`, `train/kl`."""
    name = re.sub(r"\s*/\s*", "/", name.strip().lower()).removeprefix("train/")
    return re.sub(r"[\s.-]+", "_", name)


def read(logs: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> dict[str, float]:
    """One log entry under catalogue keys.

    Args:
        logs: as logged.
        aliases: further names to keys, as the user knows them; they win.
    """
    row: dict[str, float] = {}
    if any(plain(str(name)) == "train_runtime" for name in logs):
        return row  # transformers' summary of a training that is over
    for name, raw in logs.items():
        key = (aliases or {}).get(name) or NAMES.get(plain(str(name)))
        value = number(raw)
        if key is None or value is None:
            continue
        if math.isfinite(value):
            row[key] = value
        elif key in NAN_COUNTERS:
            row[NAN_COUNTERS[key]] = 1.0
    if number(logs.get("val/num_eos_tokens")) == 0.0:
        # TRL's PPO: not one completion of the batch ended by itself.
        row["rldk/length/truncated_fraction"] = 1.0
    return row
