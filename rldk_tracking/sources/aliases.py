"""Log names to catalogue keys, as data. The newest name of a trainer stands first.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/eval/reward | reward | logs | higher
        Reward on the evaluation set.
        = as the trainer logs it
    rldk/eval/loss | 1 | logs | lower
        Loss on the evaluation set.
        = as the trainer logs it
    rldk/eval/accuracy | 1 | logs | higher
        Accuracy on the evaluation set; in preference training that of the ranking.
        = as the trainer logs it
    rldk/eval/perplexity | 1 | logs | lower
        Perplexity on held-out text.
        = as the trainer logs it
    rldk/eval/<set>/reward | reward | logs | higher
        Reward on the evaluation set, one of several.
        = as the trainer logs it
    rldk/eval/<set>/loss | 1 | logs | lower
        Loss on the evaluation set, one of several.
        = as the trainer logs it
    rldk/eval/<set>/accuracy | 1 | logs | higher
        Accuracy on the evaluation set, one of several; in preference training that of the ranking.
        = as the trainer logs it
    rldk/eval/<set>/perplexity | 1 | logs | lower
        Perplexity on held-out text, one of several.
        = as the trainer logs it
    rldk/train/token_accuracy | 1 | logs | higher
        Share of the texts' tokens that are the model's first choice, in training on given texts.
        = as TRL logs it, `mean_token_accuracy`
    rldk/train/entropy | nats per token | logs
        How undecided the model is on given texts, as against those that it samples (rldk/policy/entropy).
        = as TRL logs it
    rldk/tools/call_frequency | 1 | logs
        Calls of tools in a completion.
        = number of calls / number of completions, as the trainer logs it
    rldk/tools/failure_frequency | 1 | logs | lower
        Share of the calls of tools that fail: they raise, or name a tool that there is not.
        = failed calls / calls, as the trainer logs it; absent where there was no call
    rldk/train/loss | 1 | logs
        The trainer's loss. Near 0 by construction in on-policy GRPO.
        = as logged
    rldk/nan/loss | steps | logs | lower | max over ranks
        1 where the trainer logs a loss or a KL that is NaN or infinite. Under logging_nan_inf_filter, which is on by
        default, transformers logs a running mean in place of such a loss: see rldk/nan/gradients and rldk/nan/weights.
        = 1 in a row whose logs hold one, else absent
"""

from __future__ import annotations

import re

from rldk_tracking.metrics.preference import LOGGED as PREFERENCE

OF_FUNCTION = re.compile(r"rewards/(?P<function>(?!chosen$|rejected$).+?)(/(?P<statistic>mean|std))?")
"""One reward function of TRL's GRPO: `rewards/<name>/mean` and `/std`, up to 0.16 `rewards/<name>`."""

OF_VALIDATION = re.compile(r"val-(?:core|aux)/(?P<set>.+)/(?P<what>acc|reward)/mean(?:@|_at_)\d+")
"""verl's, and as it is written into MLflow; a set may be called `openai/gsm8k`."""

OF_PASSES = re.compile(r"(?P<set>.+)_pass1")
"""OpenRLHF's mean reward of an evaluation set, without its `eval_`."""

LOG_RATIO = "logprobs_diff"
"""OpenRLHF's log-ratio to the reference. It logs 0 where there is none, and a `kl` of any estimator beside it."""

DIVIDED_BY_MINIBATCHES = ("policy/approxkl_avg", "policy/clipfrac_avg", "loss/value_avg", "val/clipfrac_avg")
"""TRL's PPO averages over gradient_accumulation_steps slots, of which 1 / num_mini_batches are filled."""

_BY_KEY: dict[str, tuple[str, ...]] = {
    "rldk/train/loss": ("loss", "actor/pg_loss", "policy_loss", "ppo/loss/total"),
    "rldk/grad/norm": ("grad_norm", "actor/grad_norm", "actor_grad_norm"),
    "rldk/update/learning_rate": ("learning_rate", "lr", "actor/lr", "actor_lr", "ppo/learning_rate"),
    "rldk/throughput/step_seconds": ("step_time", "timing_s/step", "perf/step_s"),
    "rldk/reward/mean": (
        "rollout/reward_mean",
        "reward",
        "objective/scores",
        "self_distillation/reward_mean",
        "critic/score/mean",
        "ppo/mean_scores",
        "env/reward_mean",
    ),
    "rldk/reward/std": ("rollout/reward_std", "env/reward_std", "ppo/std_scores", "self_distillation/reward_std"),
    "rldk/reward/min": ("critic/score/min", "self_distillation/reward_min"),
    "rldk/reward/max": ("critic/score/max", "self_distillation/reward_max"),
    "rldk/reward/group_std_mean": ("group_reward_std", "self_distillation/group_reward_std_mean"),
    "rldk/reward/group_tied_fraction": ("frac_reward_zero_std", "self_distillation/flat_group_fraction"),
    "rldk/kl/ref_per_sequence": ("objective/kl",),
    "rldk/kl/ref_k3": ("actor/kl_loss",),
    "rldk/kl/ref_k1": ("actor/reward_kl_penalty", "critic/kl", LOG_RATIO),
    "rldk/policy/entropy": (
        "entropy",
        "policy/entropy_avg",
        "actor/entropy",
        "actor/entropy_loss",
        "entropy_loss",
        "ppo/policy/entropy",
    ),
    "rldk/policy/clip_fraction": (
        "clip_ratio/region_mean",
        "clip_ratio",
        "policy/clipfrac_avg",
        "actor/pg_clipfrac",
        "ppo_clip_ratio",
        "ppo/policy/clipfrac",
    ),
    "rldk/policy/clip_fraction_low": ("clip_ratio/low_mean",),
    "rldk/policy/clip_fraction_high": ("clip_ratio/high_mean",),
    "rldk/policy/approx_kl": ("policy/approxkl_avg", "ppo/policy/approxkl"),
    "rldk/value/mean": ("critic/values/mean", "ppo/val/mean"),
    "rldk/value/loss": ("loss/value_avg", "critic/vf_loss", "critic_loss", "ppo/loss/value"),
    "rldk/value/clip_fraction": ("val/clipfrac_avg", "critic/vf_clipfrac", "ppo/val/clipfrac"),
    "rldk/value/explained_variance": ("critic/vf_explained_var", "ppo/val/var_explained"),
    "rldk/advantage/mean": ("critic/advantages/mean", "ppo/policy/advantages_mean"),
    "rldk/length/mean": (
        "completions/mean_length",
        "completion_length",
        "response_length/mean",
        "rollout/response_length_mean",
        "response_length",
        "tokens/responses_len_mean",
        "sample/trained_tokens_mean",
    ),
    "rldk/length/min": ("completions/min_length", "response_length/min"),
    "rldk/length/max": ("completions/max_length", "response_length/max"),
    "rldk/length/terminated_mean": ("completions/mean_terminated_length",),
    "rldk/length/truncated_fraction": (
        "completions/clipped_ratio",
        "completions/truncated_fraction",
        "response_length/clip_ratio",
        "rollout/truncated_rate",
        "response_clip_ratio",
    ),
    "rldk/sampler/logp_diff_mean": ("sampling/sampling_logp_difference/mean",),
    "rldk/sampler/k3": ("rollout_corr/k3_kl",),
    "rldk/train/token_accuracy": ("mean_token_accuracy",),
    "rldk/tools/call_frequency": ("tools/call_frequency",),
    "rldk/tools/failure_frequency": ("tools/failure_frequency",),
    "rldk/sampler/logp_diff_max": ("sampling/sampling_logp_difference/max",),
    "rldk/async/staleness/mean": ("sample/staleness_mean", "training/off_policy/trajectory_staleness/mean"),
    "rldk/async/staleness/max": ("sample/staleness_max", "training/off_policy/trajectory_staleness/max"),
    "rldk/async/dropped": ("sample/dropped_stale_total",),
    "rldk/async/queue_length": ("sample/rollout_queue_size",),
    "rldk/async/wait_seconds": ("perf/rollout_wait_s",),
    "rldk/async/sync_seconds": ("perf/weight_sync_s", "weight_sync_time_s"),
    "rldk/throughput/tokens_per_second": ("perf/trained_tok_s_wall_clock",),
    **{key: (name,) for name, key in PREFERENCE.items()},
}

ALIASES: dict[str, str] = {name: key for key, names in _BY_KEY.items() for name in names}

PLACES: dict[str, int] = {name: place for names in _BY_KEY.values() for place, name in enumerate(names)}
"""Where a name stands among those of its key: of several that a trainer logs at once, the first is meant."""

EVALUATED: dict[str, str] = {
    "loss": "rldk/eval/loss",
    "reward": "rldk/eval/reward",
    "objective/scores": "rldk/eval/reward",
    "rewards/accuracies": "rldk/eval/accuracy",
    "accuracy": "rldk/eval/accuracy",
    "perplexity": "rldk/eval/perplexity",
}
"""What an evaluation logs, without the `eval_`."""

OF_NONE: dict[str, tuple[str, float]] = {
    "tools/failure_frequency": ("tools/call_frequency", 0.0),
    "completions/mean_terminated_length": ("completions/clipped_ratio", 1.0),
}
"""What TRL logs as 0 where there is nothing that it could be a mean of: where another name has this value."""

OF_REWARD_MODEL: tuple[dict[str, str], ...] = (
    {"accuracy": "rldk/preference/accuracy", "margin": "rldk/preference/margin"},
    {
        "acc_mean": "rldk/preference/accuracy",
        "chosen_reward": "rldk/preference/reward_chosen",
        "reject_reward": "rldk/preference/reward_rejected",
    },
)
"""What TRL's RewardTrainer logs of pairs, and OpenRLHF's trainers. One of the names alone may be anything."""

OF_ASYNC: dict[str, str] = {"kl": "rldk/sampler/k3", "ratio": "rldk/policy/ratio_mean"}
"""What TRL's AsyncGRPOTrainer logs of the trained policy and the one that sampled; it has no reference."""

OF_TEACHER = re.compile(r"teacher|distill|student|(on|off)_policy_loss")
"""What a distillation logs: without a reward beside it, its KL is to the teacher, which it falls towards."""

WAITED, STEP_TIME = "perf/rollout_wait_s", "perf/step_s"
"""Its time in the queue, and its time from one step's end to the next one's."""

NAN_COUNTERS: dict[str, str] = {
    "rldk/train/loss": "rldk/nan/loss",
    "rldk/kl/ref_k1": "rldk/nan/loss",
    "rldk/kl/ref_k3": "rldk/nan/loss",
    "rldk/kl/ref_per_sequence": "rldk/nan/loss",
    "rldk/grad/norm": "rldk/nan/gradients",
    "rldk/reward/mean": "rldk/nan/reward",
}
"""The quantities whose not being finite is a fault of training. A NaN elsewhere may be harmless."""
