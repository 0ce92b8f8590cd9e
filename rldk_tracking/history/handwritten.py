"""Names that hand-written loops, notebooks and older scripts give to the quantities of the catalogue.

Only past runs are read by them: a live custom loop hands over its rollout instead. They apply where no trainer's own
name was found for the same key, and they are spellings, not guesses: what could mean two things is not here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rldk_tracking.sources.aliases import NAN_COUNTERS
from rldk_tracking.sources.logs import distils, number

_BY_KEY: dict[str, tuple[str, ...]] = {
    "rldk/reward/mean": (
        "reward_mean", "mean_reward", "reward/mean", "avg_reward", "average_reward", "train_reward", "reward/avg",
        "reward_avg", "rewards_mean", "mean_rewards", "avg_rewards", "rewards/mean", "rollout_reward", "batch_reward",
        "rollout/reward_mean", "episode_reward", "mean_episode_reward", "score_mean", "mean_score", "avg_score",
    ),
    "rldk/reward/std": ("reward/std", "std_reward", "train_reward_std", "rewards_std", "rewards/std"),
    "rldk/reward/min": ("reward_min", "reward/min", "min_reward"),
    "rldk/reward/max": ("reward_max", "reward/max", "max_reward"),
    "rldk/reward/group_tied_fraction": (
        "frac_zero_std", "zero_std_frac", "frac_zero_std_groups", "frac_tied_groups", "tied_fraction",
        "tied_group_fraction", "zero_variance_fraction", "frac_zero_variance", "frac_zero_advantage",
    ),
    "rldk/reward/gold": (
        "gold_reward", "true_reward", "reward/gold", "reward/true", "gold_score", "true_score", "oracle_reward",
        "ground_truth_reward", "held_out_reward", "heldout_reward", "holdout_reward",
    ),
    "rldk/eval/reward": (
        "val_reward", "test_reward", "eval/reward", "val/reward", "test/reward", "eval_reward_mean", "eval_mean_reward",
        "eval/mean_reward", "eval/reward_mean", "validation_reward", "eval_avg_reward",
    ),
    "rldk/eval/perplexity": ("eval_perplexity", "eval/perplexity", "val_perplexity"),
    "rldk/eval/accuracy": ("eval_rewards/accuracies", "eval_accuracy", "val_accuracy", "eval/accuracy", "val/accuracy"),
    "rldk/kl/ref_k1": (
        "kl_ref", "kl_mean", "mean_kl", "avg_kl", "kl/mean", "kl_div", "kl_divergence", "mean_kl_divergence", "ref_kl",
        "kl_to_ref", "kl_from_ref",
    ),
    "rldk/policy/approx_kl": ("approx_kl", "approxkl", "policy/approx_kl"),
    "rldk/policy/entropy": ("policy/entropy", "entropy_mean", "mean_entropy", "avg_entropy", "policy_entropy"),
    "rldk/policy/clip_fraction": (
        "clip_frac", "clipfrac", "clip_fraction", "pg_clipfrac", "policy/clip_frac", "policy/clip_fraction",
        "clip_frac_mean", "mean_clip_frac",
    ),
    "rldk/length/mean": (
        "seq_len_mean", "avg_len", "avg_length", "mean_length", "length_mean", "length/mean", "mean_len",
        "response_len", "response_len_mean", "mean_response_len", "avg_response_len", "response_length_mean",
        "mean_response_length", "avg_response_length", "completion_len", "completion_len_mean", "completion_tokens",
        "completion_length_mean", "mean_completion_length", "avg_completion_length", "mean_completion_tokens",
        "generation_length", "gen_len", "gen_length",
    ),
    "rldk/length/truncated_fraction": (
        "truncated_fraction", "truncated_ratio", "truncated_frac", "truncation_rate", "truncation_ratio",
        "frac_truncated", "fraction_truncated",
    ),
    "rldk/update/learning_rate": ("learning_rate", "optim/lr", "lr"),
    "rldk/train/loss": (
        "actor_loss", "policy_loss", "pg_loss", "train_loss", "dpo_loss", "loss/total", "total_loss", "loss/policy",
        "policy/loss",
    ),
    "rldk/value/loss": ("value_loss", "vf_loss", "critic_loss", "loss/value", "value/loss", "critic/loss"),
    "rldk/value/explained_variance": ("explained_variance", "explained_var", "value/explained_variance"),
    "rldk/grad/norm": (
        "gradient_norm", "optim/grad_norm", "grad/norm", "grad_norm_mean", "policy/grad_norm", "global_grad_norm",
    ),
    "rldk/preference/margin": ("reward_margin", "reward_margins", "margins"),
    "rldk/preference/accuracy": ("reward_accuracy", "reward_accuracies", "preference_accuracy"),
    "rldk/preference/reward_chosen": ("chosen_reward", "chosen_rewards", "reward_chosen", "rewards_chosen"),
    "rldk/preference/reward_rejected": ("rejected_reward", "reject_reward", "rejected_rewards", "rewards_rejected"),
    "rldk/preference/chosen_logps": ("logps_chosen", "chosen_logps", "policy_chosen_logps"),
    "rldk/preference/rejected_logps": ("logps_rejected", "rejected_logps", "policy_rejected_logps"),
}  # fmt: skip

NAMES: dict[str, str] = {name: key for key, names in _BY_KEY.items() for name in names}


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Lower case, without a prefix for training, words joined by underscores: `Avg Response Len`, `train/kl`."""
    name = re.sub(r"\s*/\s*", "/", name.strip().lower()).removeprefix("train/")
    return re.sub(r"[\s.-]+", "_", name)


@lru_cache(maxsize=256)
def _keys(names: tuple[Any, ...], aliases: tuple[tuple[str, str], ...]) -> list[tuple[Any, str]]:
    """Which of an entry's names are read, with their keys; none of transformers' summary of a training that is over."""
    if any(plain(str(name)) == "train_runtime" for name in names):
        return []
    known, is_distilled = dict(aliases), distils(map(str, names))
    found: list[tuple[Any, str]] = []
    for name in names:
        key = known.get(name)
        if key is None and (key := NAMES.get(plain(str(name)))) == "rldk/kl/ref_k1" and is_distilled:
            continue
        if key is not None:
            found.append((name, key))
    return found


def read(logs: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> dict[str, float]:
    """One log entry under catalogue keys.

    Args:
        logs: as logged.
        aliases: further names to keys, as the user knows them; they win.
    """
    row: dict[str, float] = {}
    for name, key in _keys(tuple(logs), tuple(aliases.items()) if aliases else ()):
        value = number(logs[name])
        if value is None:
            continue
        if math.isfinite(value):
            row[key] = value
        elif key in NAN_COUNTERS:
            row[NAN_COUNTERS[key]] = 1.0
    if number(logs.get("val/num_eos_tokens")) == 0.0:
        # TRL's PPO: not one completion of the batch ended by itself.
        row["rldk/length/truncated_fraction"] = 1.0
    return row
