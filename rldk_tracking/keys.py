"""The catalogue of series: every key that is ever emitted has a row here.

Quantities "over tokens" mean the response tokens of the whole batch, of all ranks, each weighing the same; standard
deviations have n - 1 in the denominator; percentiles interpolate linearly. A quantity that does not exist for a step
has no value there: it is never written as 0 or NaN.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Source = Literal["rollout", "update", "logs", "optimizer", "host", "rules", "checkpoint", "user"]
"""Where the number comes from.

rollout: computed here from the tensors of a `Rollout`; where there is none, from the trainer's logs if they hold it.
update: computed here from the tensors of a `PolicyUpdate`; likewise.
logs: only the trainer knows it.
optimizer: measured around the optimizer's step.
host: measured on the process, its machine and its GPU.
rules: follows from the other series.
checkpoint: measured on saved weights.
user: something that the user supplied.
"""

Direction = Literal["higher", "lower", "none"]
"""Which way is better, all else equal; "none" where both ways can be trouble."""

Reduce = Literal["mean", "max", "min", "sum"]
"""How one number is made where each rank measured its own. Numbers of source "rollout" and "update" never need it:
they are computed from all ranks' completions at once."""


@dataclass(frozen=True, slots=True)
class Key:
    """One series, or a family of them where the name holds a `<placeholder>`.

    Attributes:
        name: `rldk/<group>/<name>[/<stat>]`.
        unit: of the values; "1" for shares and other pure numbers.
        meaning: what it tells, in a sentence.
        formula: how it is computed.
        source: where it comes from.
        direction: which way is better.
        reduce: how per-rank values are merged.
    """

    name: str
    unit: str
    meaning: str
    formula: str
    source: Source
    direction: Direction = "none"
    reduce: Reduce = "mean"


NATS = "nats per token"
REWARD = "reward"
TOKENS = "tokens"
NORM_QUANTILES = (("p10", "10th percentile"), ("p50", "median"), ("p90", "90th percentile"))
EXTREMES = (("max", "maximum"), ("min", "minimum"))
GIB = "GiB"
SCORE = "score in [0, 1]"

_ROWS = (
    # the policy: its distance from the reference, from the policy that sampled, and from the sampler.
    Key(
        "rldk/kl/ref_k1",
        NATS,
        "Drift of the policy from its reference; unbiased, may be negative in small batches.",
        "mean over tokens of d = log pi - log pi_ref",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/kl/ref_k2",
        NATS,
        "The same by Schulman's second estimator: biased, of low variance.",
        "mean over tokens of d^2 / 2",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/kl/ref_k3",
        NATS,
        "Drift from the reference by Schulman's third estimator: unbiased, never negative; GRPO's `kl`.",
        "mean over tokens of exp(-d) - 1 + d",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/kl/ref_k1_stderr",
        NATS,
        "How far rldk/kl/ref_k1 may be off by chance.",
        "standard error of the ratio of sums, with completions as independent units",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/kl/ref_p99",
        "nats",
        "Drift at the tokens that drifted most.",
        "99th percentile over tokens of d",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/kl/ref_per_sequence",
        "nats per sequence",
        "Drift summed over a completion, TRL PPO's `objective/kl`; grows with length.",
        "mean over completions of the sum of d",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/kl/ref_k1_k3_gap",
        NATS,
        "How much the estimators disagree; far from 0 where few tokens carry the drift.",
        "ref_k1 - ref_k3",
        "rollout",
    ),
    Key(
        "rldk/policy/entropy",
        NATS,
        "How undecided the policy is. Exact on GRPO and RLOO, which compute it; on PPO the unbiased estimate from the "
        "sampled tokens.",
        "mean over forward passes of each one's mean over tokens of the entropy of pi; on PPO mean of -log pi(token)",
        "rollout",
    ),
    Key(
        "rldk/policy/logprob_min",
        "nats",
        "The least likely token that was sampled.",
        "minimum over tokens of log pi",
        "rollout",
        reduce="min",
    ),
    Key(
        "rldk/policy/clip_fraction",
        "1",
        "Share of the loss's tokens that clipping leaves without a gradient (RLOO: of completions).",
        "clip_fraction_low + clip_fraction_high",
        "update",
        "lower",
    ),
    Key(
        "rldk/policy/clip_fraction_low",
        "1",
        "Share clipped on the way down.",
        "share with w = pi / pi_old < 1 - clip_low and advantage < 0",
        "update",
        "lower",
    ),
    Key(
        "rldk/policy/clip_fraction_high",
        "1",
        "Share clipped on the way up.",
        "share with w > 1 + clip_high and advantage > 0",
        "update",
        "lower",
    ),
    Key(
        "rldk/policy/approx_kl",
        NATS,
        "How far the update has moved from the policy that sampled; TRL PPO's `policy/approxkl_avg` without padding.",
        "mean over tokens of (log w)^2 / 2",
        "update",
        "lower",
    ),
    Key(
        "rldk/policy/ratio_mean",
        "1",
        "Mean importance ratio; near 1 while the update stays near the policy that sampled.",
        "mean of w over tokens (RLOO and GSPO: over completions, see metrics/ratio.py)",
        "update",
    ),
    Key(
        "rldk/policy/ratio_max",
        "1",
        "Largest importance ratio.",
        "maximum of w over tokens (RLOO and GSPO: over completions, see metrics/ratio.py)",
        "update",
        "lower",
        "max",
    ),
    Key(
        "rldk/policy/ess",
        "1",
        "Effective sample size over tokens, as a share of them, before any truncation; 1 where all ratios are equal.",
        "(sum w)^2 / (n sum w^2)",
        "update",
        "higher",
    ),
    Key(
        "rldk/policy/ess_sequence",
        "1",
        "Effective sample size over completions, as a share of them.",
        "(sum W)^2 / (n sum W^2), W the product of w over a completion's tokens",
        "update",
        "higher",
    ),
    Key(
        "rldk/policy/first_epoch_ratio",
        "1",
        "Must be 1: nothing has been trained yet. Anything else is a bug in how log-probabilities are recomputed.",
        "mean over tokens of w, before the first optimizer step on a rollout",
        "update",
    ),
    Key(
        "rldk/sampler/logp_diff_mean",
        "nats",
        "Disagreement of the model that trains with the engine that samples.",
        "mean over tokens of |d|, d = log pi_trainer - log pi_sampler",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/sampler/logp_diff_max",
        "nats",
        "Their largest disagreement.",
        "maximum over tokens of |d|",
        "rollout",
        "lower",
        "max",
    ),
    Key(
        "rldk/sampler/k3",
        NATS,
        "Divergence of the trainer's policy from the sampler's.",
        "mean over tokens of exp(d) - 1 - d",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/sampler/ratio_max",
        "1",
        "Largest importance ratio between the two, before any truncation.",
        "maximum over tokens of exp(d)",
        "rollout",
        "lower",
        "max",
    ),
    Key(
        "rldk/sampler/ess",
        "1",
        "Effective sample size of the sampler's tokens for the trainer, as a share of them.",
        "(sum w)^2 / (n sum w^2), w = exp(d)",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/sampler/fraction_off",
        "1",
        "Share of tokens that one of the two finds more than twice as likely as the other.",
        "share of tokens with |d| > ln 2",
        "rollout",
        "lower",
    ),
    # what completions are worth: rewards, the critic's predictions, advantages.
    Key(
        "rldk/reward/mean",
        REWARD,
        "What the optimizer is rewarded with, before any KL penalty.",
        "mean over completions with a finite score",
        "rollout",
        "higher",
    ),
    Key("rldk/reward/std", REWARD, "Spread of the score over the whole batch.", "standard deviation", "rollout"),
    Key("rldk/reward/min", REWARD, "Lowest score.", "minimum", "rollout", "higher", "min"),
    Key("rldk/reward/max", REWARD, "Highest score.", "maximum", "rollout", "higher", "max"),
    Key("rldk/reward/p10", REWARD, "A tenth of the completions score less.", "10th percentile", "rollout", "higher"),
    Key("rldk/reward/p50", REWARD, "Median score.", "50th percentile", "rollout", "higher"),
    Key("rldk/reward/p90", REWARD, "A tenth of the completions score more.", "90th percentile", "rollout", "higher"),
    Key(
        "rldk/reward/function/<name>/mean",
        REWARD,
        "What one reward function returns, unweighted.",
        "mean over the completions that it scored",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/reward/function/<name>/std",
        REWARD,
        "Spread of what one reward function returns.",
        "standard deviation over the completions that it scored",
        "rollout",
    ),
    Key(
        "rldk/reward/function/<name>/weight",
        "1",
        "Weight of one reward function in the score.",
        "as configured",
        "rollout",
    ),
    Key(
        "rldk/reward/pairwise_corr/min",
        "1",
        "The two reward functions that agree least; below 0 one is paid for what the other punishes.",
        "minimum over pairs of Pearson's correlation over the completions that both scored",
        "rollout",
    ),
    Key(
        "rldk/reward/pairwise_corr/mean",
        "1",
        "How far the reward functions agree.",
        "mean over pairs of Pearson's correlation",
        "rollout",
    ),
    Key(
        "rldk/reward/group_tied_fraction",
        "1",
        "Share of groups in which every completion scored the same, so that none teaches anything; groups of one "
        "scored completion do not count.",
        "share of groups with a standard deviation of at most 1e-8",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/reward/group_tied_fraction_all_max",
        "1",
        "Share of groups tied at the highest score: solved prompts. The highest is the task's where it is stated, else "
        "the batch's.",
        "share of groups",
        "rollout",
    ),
    Key(
        "rldk/reward/group_tied_fraction_all_min",
        "1",
        "Share of groups tied at the batch's lowest score: prompts that are too hard.",
        "share of groups",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/reward/group_std_mean",
        REWARD,
        "Spread of the score among completions of one prompt: the signal that GRPO and RLOO learn from.",
        "mean over groups of the standard deviation within",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/reward/effective_batch_fraction",
        "1",
        "Share of the batch that carries a signal.",
        "completions that have a score and a group with a spread / completions",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/reward/within_group_length_corr",
        "1",
        "Whether longer answers to the same prompt score higher; the mark of a reward that pays for length.",
        "mean over groups of Spearman's correlation of score with length",
        "rollout",
    ),
    Key(
        "rldk/reward/per_token",
        "reward per token",
        "Token efficiency.",
        "sum of scores / sum of lengths",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/reward/non_score_share",
        "1",
        "Weight of the KL penalty in what is optimised.",
        "sum |penalty| / (sum |penalty| + sum |score|), over completions",
        "rollout",
    ),
    Key(
        "rldk/reward/gold",
        REWARD,
        "A held-out judge's score, which nothing is optimised for: the check on reward hacking.",
        "mean over the completions that were judged",
        "user",
        "higher",
    ),
    Key(
        "rldk/reward/unweighted",
        REWARD,
        "The one reward function of weight 0: logged, not optimised, so that it can check the others.",
        "mean over the completions that it scored",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/eval/reward",
        REWARD,
        "Reward on the evaluation set.",
        "as the trainer logs it",
        "logs",
        "higher",
    ),
    Key("rldk/eval/loss", "1", "Loss on the evaluation set.", "as the trainer logs it", "logs", "lower"),
    Key(
        "rldk/eval/accuracy",
        "1",
        "Accuracy on the evaluation set, in preference training that of the ranking.",
        "as the trainer logs it",
        "logs",
        "higher",
    ),
    Key("rldk/eval/perplexity", "1", "Perplexity on held-out text.", "as logged", "logs", "lower"),
    Key("rldk/value/mean", REWARD, "The critic's predictions.", "mean over tokens of V", "rollout"),
    Key("rldk/value/std", REWARD, "Spread of the critic's predictions.", "standard deviation over tokens", "rollout"),
    Key(
        "rldk/value/loss",
        "reward^2",
        "The critic's loss.",
        "the trainer's own, averaged over the minibatches that ran",
        "logs",
        "lower",
    ),
    Key(
        "rldk/value/clip_fraction",
        "1",
        "Share of tokens at which the critic's loss is clipped.",
        "the trainer's own, averaged over the minibatches that ran",
        "logs",
        "lower",
    ),
    Key(
        "rldk/value/explained_variance",
        "1",
        "How much of the returns the critic predicts: 1 all, 0 no more than a constant, below 0 less than that.",
        "1 - Var(R - V) / Var(R) over all tokens of the batch",
        "rollout",
        "higher",
    ),
    Key("rldk/value/bias", REWARD, "Above 0 the critic expects too little.", "mean over tokens of R - V", "rollout"),
    Key(
        "rldk/value/value_reward_corr",
        "1",
        "Whether the critic tells good completions from bad ones.",
        "Pearson over completions of the mean of V over tokens with the score",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/advantage/mean",
        "1",
        "Advantages as the loss uses them: whitened where the trainer whitens.",
        "mean over tokens (GRPO and RLOO: over completions)",
        "rollout",
    ),
    Key("rldk/advantage/std", "1", "Their spread.", "standard deviation, likewise", "rollout"),
    Key(
        "rldk/advantage/raw_mean",
        REWARD,
        "Advantages before whitening; far from 0 the baseline is biased.",
        "mean, likewise",
        "rollout",
    ),
    Key(
        "rldk/advantage/raw_std",
        REWARD,
        "Their spread before whitening, which whitening hides.",
        "standard deviation, likewise",
        "rollout",
    ),
    Key(
        "rldk/advantage/abs_p99",
        "1",
        "Whether few tokens dominate the loss.",
        "99th percentile of the magnitude, as used",
        "rollout",
    ),
    Key("rldk/advantage/fraction_positive", "1", "Share that is reinforced.", "share above 0", "rollout"),
    Key(
        "rldk/advantage/length_corr",
        "1",
        "Whether training pushes towards longer (above 0) or shorter completions.",
        "Spearman over completions of the (mean) advantage, before whitening where known, with the length",
        "rollout",
    ),
    # the completions themselves: length and diversity.
    Key("rldk/length/mean", TOKENS, "Response tokens of a completion.", "mean over completions", "rollout"),
    Key("rldk/length/std", TOKENS, "Spread of the length.", "standard deviation over completions", "rollout"),
    Key("rldk/length/min", TOKENS, "Shortest completion.", "minimum", "rollout", reduce="min"),
    Key("rldk/length/max", TOKENS, "Longest completion.", "maximum", "rollout", reduce="max"),
    Key("rldk/length/p95", TOKENS, "One completion in twenty is longer.", "95th percentile", "rollout"),
    Key(
        "rldk/length/truncated_fraction",
        "1",
        "Share that the length limit cut off.",
        "truncated completions / completions",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/length/eos_fraction",
        "1",
        "Share that ended by itself.",
        "1 - truncated_fraction",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/length/terminated_mean",
        TOKENS,
        "Length of the completions that ended by themselves; absent where none did.",
        "mean over completions that were not truncated",
        "rollout",
    ),
    Key(
        "rldk/diversity/unique_fraction",
        "1",
        "1 where no completion occurs twice.",
        "distinct completions / completions",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/diversity/distinct_1",
        "1",
        "Variety of tokens within a completion (Li et al. 2016).",
        "mean over completions of distinct tokens / tokens",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/diversity/distinct_2",
        "1",
        "Variety of pairs of tokens within a completion.",
        "mean over completions of distinct bigrams / bigrams",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/diversity/within_group_overlap",
        "1",
        "How alike the answers to one prompt are; 1 where they use the same bigrams.",
        "mean over groups and pairs in them of |A and B| / |A or B| of bigram sets, estimated from 16 min-hashes",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/diversity/repetition",
        "1",
        "How much completions repeat themselves; near 1 one phrase over and over.",
        "mean over completions of the longest n-gram that occurs twice / tokens",
        "rollout",
        "lower",
    ),
    # training itself: loss, preferences, gradients, updates, weights, and what is not a number.
    Key("rldk/train/loss", "1", "The trainer's loss. Near 0 by construction in on-policy GRPO.", "as logged", "logs"),
    Key(
        "rldk/preference/margin",
        "1",
        "Implicit reward of the chosen over the rejected text.",
        "mean over pairs, as logged",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/accuracy",
        "1",
        "Share of pairs that the model ranks as people did.",
        "share of pairs with a positive margin, as logged",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/chosen_logps",
        "nats",
        "Log-probability of a chosen text: a sum over its tokens, in ORPO a mean.",
        "mean over texts, as logged",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/rejected_logps",
        "nats",
        "Log-probability of a rejected text, likewise.",
        "mean over texts, as logged",
        "logs",
    ),
    Key(
        "rldk/preference/chosen_logps_drift",
        "nats",
        "Below 0 the model finds the chosen texts less likely than at the start.",
        "chosen_logps minus its mean over the first steps",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/rejected_logps_drift",
        "nats",
        "The same of the rejected texts.",
        "rejected_logps minus its mean over the first steps",
        "logs",
    ),
    Key(
        "rldk/nan/weights",
        "tensors",
        "Weight tensors that hold a NaN or an infinity; 0 is a measured 0.",
        "count",
        "optimizer",
        "lower",
        "max",
    ),
    Key(
        "rldk/nan/gradients",
        "tensors",
        "Gradient tensors that hold a NaN or an infinity.",
        "count",
        "optimizer",
        "lower",
        "max",
    ),
    Key(
        "rldk/nan/loss",
        "steps",
        "1 where the loss is a NaN or an infinity, also where the trainer's logs hide it.",
        "count",
        "logs",
        "lower",
        "max",
    ),
    Key(
        "rldk/nan/reward",
        "completions",
        "Completions whose score is a NaN or an infinity, those that no reward function scored among them.",
        "count",
        "rollout",
        "lower",
        "sum",
    ),
    Key(
        "rldk/grad/norm",
        "1",
        "Length of the gradient, before clipping.",
        "Euclidean norm over all parameters, mean over the optimizer steps",
        "optimizer",
    ),
    Key(
        "rldk/grad/norm_clipped_fraction",
        "1",
        "Share of optimizer steps whose gradient was shortened.",
        "steps with a norm above max_grad_norm / steps",
        "optimizer",
        "lower",
    ),
    *(
        Key(f"rldk/grad/layer_norm/{stat}", "1", "Gradient of a layer.", f"{name} over layers of the norm", "optimizer")
        for stat, name in (*NORM_QUANTILES, *EXTREMES)
    ),
    Key(
        "rldk/grad/layers_without",
        "layers",
        "Layers that are trained but get no gradient.",
        "layers whose gradient is exactly 0",
        "optimizer",
        "lower",
        "max",
    ),
    Key(
        "rldk/grad/noise_scale",
        "samples",
        "Batch size above which larger batches bring little (McCandlish et al. 2018).",
        "B_simple = tr(S) / |G|^2, from gradients of micro-batches against the accumulated one",
        "optimizer",
    ),
    *(
        Key(
            f"rldk/update/ratio/{stat}",
            "1",
            "How far one optimizer step moves a layer, against its size.",
            f"{name} over layers of |change| / |weights|",
            "optimizer",
        )
        for stat, name in NORM_QUANTILES
    ),
    Key(
        "rldk/update/adam_rms",
        "1",
        "How sure Adam is of its direction: near 1 gradients agree, near 0 they cancel.",
        "root mean square over elements of m_hat / (sqrt(v_hat) + eps)",
        "optimizer",
    ),
    Key(
        "rldk/update/learning_rate",
        "1",
        "Learning rate of the step.",
        "largest over parameter groups",
        "optimizer",
        reduce="max",
    ),
    Key(
        "rldk/update/effective_lr",
        "1",
        "How far a weight moves in one step.",
        "root mean square over elements of the change",
        "optimizer",
    ),
    Key(
        "rldk/update/frozen_layers",
        "layers",
        "Layers of the optimizer that did not move at all.",
        "count",
        "optimizer",
        "lower",
        "max",
    ),
    Key(
        "rldk/grad/layer/<layer>",
        "1",
        "Gradient of one of the few layers farthest from the rest, before clipping.",
        "Euclidean norm, mean over the optimizer steps; see rldk_tracking/metrics/farthest.py for which layers",
        "optimizer",
    ),
    Key(
        "rldk/update/layer_ratio/<layer>",
        "1",
        "How far one optimizer step moves one of the few layers farthest from the rest.",
        "|change| / |weights|",
        "optimizer",
    ),
    Key(
        "rldk/lr/change",
        "1",
        "By what factor the schedule changed the learning rate; see rldk_tracking/metrics/schedule.py.",
        "rate at the change / rate before it",
        "optimizer",
    ),
    Key("rldk/lr/change_step", "steps", "When the schedule changed the learning rate.", "its step", "optimizer"),
    *(
        Key(
            f"rldk/lr/{name}_response",
            "standard errors",
            f"How far {what} moved when the schedule changed the learning rate: 2 is little, 5 is much.",
            "Welch's t of up to ten rows on each side of the change, without its own",
            "optimizer",
        )
        for name, what in (("loss", "the loss"), ("kl", "the KL"), ("grad_norm", "the gradient norm"))
    ),
    Key("rldk/weight/norm", "1", "Size of the trained weights.", "Euclidean norm over all parameters", "optimizer"),
    *(
        Key(f"rldk/weight/layer_norm/{stat}", "1", "Size of a layer.", f"{name} over layers of the norm", "optimizer")
        for stat, name in (*NORM_QUANTILES, *EXTREMES)
    ),
    # the machine, the verdicts, the checkpoints and of these diagnostics themselves.
    Key(
        "rldk/resources/gpu_memory_gib",
        GIB,
        "GPU memory held by tensors, of the fullest rank.",
        "torch's allocated memory",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/resources/gpu_memory_reserved_gib",
        GIB,
        "GPU memory taken from the driver, of the fullest rank.",
        "torch's reserved memory",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/resources/gpu_memory_peak_gib",
        GIB,
        "Most GPU memory that tensors have held so far.",
        "torch's peak of allocated memory",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/memory/parameters_gib",
        GIB,
        "Memory of the model's parameters.",
        "bytes of all parameters and buffers",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/memory/gradients_gib",
        GIB,
        "Memory of the gradients.",
        "as many as parameters are trained",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/memory/optimizer_gib",
        GIB,
        "Memory of the optimizer's state.",
        "bytes of its tensors",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/memory/activations_gib",
        GIB,
        "What the peak holds beside the rest.",
        "peak minus parameters, gradients and optimizer state",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/resources/gpu_memory_fraction",
        "1",
        "Share of the GPU's memory that cannot be had, whoever holds it.",
        "1 - (free + reserved by torch and not held by tensors) / total",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/resources/gpu_utilisation",
        "1",
        "Share of the time in which a kernel ran.",
        "NVML's last sampling period, mean over ranks",
        "host",
        "higher",
    ),
    Key(
        "rldk/resources/host_memory_fraction",
        "1",
        "Share of the machine's memory, or of a container's limit, that cannot be had.",
        "1 - available / total; used without droppable cache / cgroup limit",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/resources/host_rss_gib",
        GIB,
        "Resident memory of the training process, of the largest rank.",
        "as the operating system says",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/resources/host_rss_slope_gib_per_100_steps",
        "GiB per 100 steps",
        "Trend of the resident memory; lastingly above 0 something leaks.",
        "resistant line through the last steps (Tukey 1977)",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/throughput/step_seconds",
        "s",
        "Wall time of a step, of the slowest rank.",
        "everything between two steps",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/throughput/tokens_per_second",
        "1/s",
        "Response tokens of all ranks.",
        "tokens / wall time",
        "host",
        "higher",
        "sum",
    ),
    Key(
        "rldk/throughput/samples_per_second",
        "1/s",
        "Completions of all ranks.",
        "completions / wall time",
        "host",
        "higher",
        "sum",
    ),
    Key(
        "rldk/throughput/rollout_fraction",
        "1",
        "Share of the step that goes into sampling and scoring.",
        "time of sampling and scoring / wall time",
        "host",
    ),
    Key("rldk/health/score", SCORE, "The run's health.", "from the parts that are known", "rules", "higher"),
    Key("rldk/health/stability", SCORE, "How steadily training goes.", "see the rule's page", "rules", "higher"),
    Key("rldk/health/convergence", SCORE, "How far the reward still improves.", "trend of the reward", "rules"),
    Key(
        "rldk/health/policy_collapse_risk",
        SCORE,
        "Signs that the policy has become deterministic without having solved the task.",
        "from entropy, diversity and reward spread",
        "rules",
        "lower",
    ),
    Key(
        "rldk/health/reward_hacking_risk",
        SCORE,
        "Signs that the reward rises for the wrong reason; absent without a second signal.",
        "from length, KL, diversity, reward functions and held-out scores",
        "rules",
        "lower",
    ),
    Key(
        "rldk/health/convergence_slope",
        "reward/step",
        "How fast the reward moves.",
        "Theil-Sen slope over the rows that are kept",
        "rules",
    ),
    Key("rldk/health/convergence_slope_low", "reward/step", "Lower end of the slope's interval.", "95 %", "rules"),
    Key("rldk/health/convergence_slope_high", "reward/step", "Upper end of the slope's interval.", "95 %", "rules"),
    Key(
        "rldk/health/<family>",
        SCORE,
        "Health in one family of rules (nan, kl, reward, ...); absent where none of its rules has data.",
        "1; halved by a warning, a tenth with a critical alert",
        "rules",
        "higher",
    ),
    Key("rldk/health/memory_efficiency", SCORE, "Use that is made of the memory.", "see its page", "rules", "higher"),
    Key("rldk/alerts/firing", "alerts", "Alerts that are open.", "count", "rules", "lower", "max"),
    Key(
        "rldk/system/tracker_errors",
        "writes",
        "Writes that a tracker has not taken so far.",
        "count",
        "host",
        "lower",
        "sum",
    ),
    Key(
        "rldk/system/trackers_down",
        "trackers",
        "Trackers that do not take our writes at present.",
        "count",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/system/rank_spread/seconds",
        "s",
        "By how much the slowest rank holds up the fastest when sampling; what a backward pass waits is not seen.",
        "max - min of the ranks' seconds in gathers",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/system/rank_spread/weights",
        "1",
        "How far the ranks' copies of the weights have drifted apart; 0 while they are copies.",
        "(max - min) / max of the ranks' weight norms",
        "optimizer",
        "lower",
        "max",
    ),
    Key("rldk/system/overhead_fraction", "1", "What these diagnostics cost.", "time here / wall time", "host", "lower"),
    Key("rldk/checkpoint/score", SCORE, "Health of the last checkpoint.", "its lowest part", "checkpoint", "higher"),
    *(
        Key(
            f"rldk/checkpoint/part/{part}",
            SCORE,
            meaning,
            "see rldk_tracking/checkpoint/score.py",
            "checkpoint",
            "higher",
        )
        for part, meaning in (
            ("intact", "1 where every file can be read."),
            ("complete", "1 where nothing is missing."),
            ("finite", "1 where every tensor holds numbers only."),
            ("similar", "Whether the weights point where the previous checkpoint's do."),
            ("balanced", "Whether the layers have kept their norms since the previous checkpoint."),
        )
    ),
    Key("rldk/checkpoint/corrupt", "files", "Files that cannot be read whole.", "count", "checkpoint", "lower", "max"),
    Key(
        "rldk/checkpoint/incomplete",
        "problems",
        "What the checkpoint lacks: shards, tensors, the state that a resume needs.",
        "count",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/checkpoint/nonfinite",
        "tensors",
        "Saved tensors that hold a NaN or an infinity.",
        "count",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/checkpoint/unchanged",
        "1",
        "1 where nothing differs from the previous checkpoint.",
        "all tensors compared",
        "checkpoint",
        "lower",
    ),
    Key(
        "rldk/checkpoint/still_layers",
        "layers",
        "Layers that are as they were in the previous checkpoint while others have moved; frozen ones too.",
        "count",
        "checkpoint",
        "none",
        "max",
    ),
    Key(
        "rldk/checkpoint/changed_tensors",
        "tensors",
        "Tensors whose shape or type is another than in the previous checkpoint.",
        "count",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/checkpoint/drift",
        "1",
        "How far the weights have moved since the first checkpoint.",
        "|W - W_first| / |W_first|",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/drift_previous",
        "1",
        "How far the weights have moved since the previous checkpoint; 0 where nothing was learnt.",
        "|W - W_previous| / |W_previous|",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/drift_reference",
        "1",
        "How far the weights are from the reference model's.",
        "|W - W_reference| / |W_reference|",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/cosine_previous",
        "1",
        "Near 1 the weights point where they pointed before.",
        "cosine of all weights with the previous checkpoint's",
        "checkpoint",
        "higher",
    ),
    *(
        Key(
            f"rldk/checkpoint/layer_drift/{stat}",
            "1",
            "How far a layer has moved since the previous checkpoint.",
            f"{name} over layers",
            "checkpoint",
        )
        for stat, name in NORM_QUANTILES
    ),
    *(
        Key(
            f"rldk/checkpoint/layer_norm_ratio_{stat}",
            "1",
            "How much a layer has grown since the previous checkpoint.",
            f"{name} over layers of |W| / |W_previous|",
            "checkpoint",
        )
        for stat, name in EXTREMES
    ),
    *(
        Key(
            f"rldk/checkpoint/stable_rank/{stat}",
            "1",
            "How many directions a weight matrix spreads over.",
            f"{name} over matrices of |W|_F^2 / |W|_2^2",
            "checkpoint",
        )
        for stat, name in NORM_QUANTILES
    ),
    Key("rldk/checkpoint/norm", "1", "Size of the saved weights.", "Euclidean norm", "checkpoint"),
    Key("rldk/checkpoint/zero_fraction", "1", "Share of the saved weights that are 0.", "share", "checkpoint"),
    Key("rldk/checkpoint/scan_seconds", "s", "Time that reading took.", "wall time", "checkpoint", "lower", "max"),
    Key("rldk/checkpoint/size_gib", GIB, "Size on disk.", "sum over files", "checkpoint", "none", "max"),
    Key(
        "rldk/checkpoint/adapter_norm",
        "1",
        "Size of what a LoRA adapter adds to the weights.",
        "|scale B A|_F over all adapted modules",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/adapter_ratio",
        "1",
        "The same against the weights that it is added to, where the base model is a local folder.",
        "|scale B A|_F / |W|_F",
        "checkpoint",
    ),
    Key(
        "rldk/checkpoint/step",
        "steps",
        "Which checkpoint these numbers are of.",
        "its step",
        "checkpoint",
        "none",
        "max",
    ),
    Key(
        "rldk/checkpoint/room_for_saves",
        "checkpoints",
        "How many further checkpoints of this size the disk has room for.",
        "free space / size",
        "checkpoint",
        "higher",
        "min",
    ),
    Key(
        "rldk/checkpoint/disk_short",
        "1",
        "1 where the disk has no room for the checkpoints that are to come.",
        "room_for_saves < saves to come (3 where that is not known)",
        "checkpoint",
        "lower",
        "max",
    ),
    Key(
        "rldk/<group>/limit",
        "that of the series",
        "A limit that the user gave for a series of the group, to be seen beside it.",
        "the threshold of the rule",
        "user",
        "none",
        "max",
    ),
)

CATALOGUE: dict[str, Key] = {key.name: key for key in _ROWS}

_PLACEHOLDER = re.compile(r"<\w+>")
_TEMPLATES = [
    (re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(key.name))), key)
    for key in CATALOGUE.values()
    if _PLACEHOLDER.search(key.name)
]


def lookup(name: str) -> Key | None:
    """The row of a key, also of one that a template such as `rldk/reward/function/<name>/mean` stands for."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    return next((key for pattern, key in _TEMPLATES if pattern.fullmatch(name)), None)
