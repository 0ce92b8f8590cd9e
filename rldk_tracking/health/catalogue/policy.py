"""Divergence, reference, policy updates, entropy, sampler."""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

KL = ("rldk/kl/ref_k1", "rldk/kl/ref_k3")
"""k1 where rollouts are read: once the policy is far away, k3 is dominated by the few tokens that the policy avoids."""

RULES = (
    Rule(
        id="reference.mismatch",
        keys=KL,
        condition="first",
        parameters={
            "exact": 0.05,
            "exact_key": "rldk/kl/ref_k1_stderr",
            "at_once": 0.2,
            "above": 1.0,
            "critical": 2.0,
            "sequence_key": "rldk/kl/ref_per_sequence",
        },
        clear_after=10,
        silences=("kl.high", "kl.spike"),
        message="KL to the reference is {value:.3g} nats per token at the first step, where it should be 0.",
        advice="Check that the reference is the model that training began from: same checkpoint, adapter, dtype and "
        "chat template, dropout off.",
        quotes=("beta", "kl_coef"),
    ),
    Rule(
        id="kl.high",
        keys=KL,
        condition="unpaid_drift",
        persistence=(3, 4),
        clear_after=5,
        cooldown_steps=20,
        message="KL to the reference is {value:.3g} nats per token, over {threshold:.3g}, since step {first_step}"
        " (reward gain so far, in standard deviations: {reward_gain_sigmas:.2g}).",
        advice="Raise beta (kl_coef) or lower the learning rate; go back to a checkpoint from before the drift.",
        quotes=("learning_rate", "beta", "kl_coef", "num_iterations"),
    ),
    Rule(
        id="kl.spike",
        keys=KL,
        condition="jump",
        parameters={"z": 12.0, "ratio": 10.0, "floor": 5.0, "zero_is_missing": True},
        clear_after=3,
        cooldown_steps=20,
        message="KL to the reference jumped to {value:.3g} nats per token (limit {threshold:.3g}) from about "
        "{normal:.3g}.",
        advice="Look at the completions of this step: a few tokens that the reference finds impossible are enough. "
        "Lower the learning rate or clip harder if it repeats.",
        quotes=("learning_rate", "beta", "kl_coef"),
    ),
    Rule(
        id="kl.negative",
        keys=("rldk/kl/ref_k1",),
        condition="below_zero",
        parameters={"error_key": "rldk/kl/ref_k1_stderr", "z": 4.0, "floor": 0.02, "floor_alone": 0.1},
        persistence=(3, 5),
        message="The mean log-ratio to the reference is {value:.3g} nats per token, below 0 by more than its error.",
        advice="Completions are not drawn from the policy that scores them: compare sampling settings (temperature, "
        "top_p, top_k) and the sampler's weights with the trainer's.",
        quotes=("temperature", "top_p", "top_k"),
    ),
    Rule(
        id="policy.clip_fraction",
        keys=("rldk/policy/clip_fraction",),
        condition="level",
        parameters={"threshold": 0.3, "clear": 0.2, "critical": 0.6, "only_below": {"rldk/policy/ess": 0.8}},
        persistence=(3, 5),
        cooldown_steps=20,
        message="{value:.0%} of the tokens are clipped (limit {threshold:.0%}).",
        advice="The policy moves too far within one batch: fewer epochs or iterations per batch, or a lower learning "
        "rate.",
        quotes=("learning_rate", "num_iterations", "num_ppo_epochs", "epsilon", "cliprange"),
    ),
    Rule(
        id="policy.stale",
        keys=("rldk/policy/first_epoch_ratio",),
        condition="level",
        parameters={"threshold": 1.05, "clear": 1.02},
        persistence=(3, 5),
        message="The probability ratio is {value:.3g} at the first epoch, where it must be 1.",
        advice="The log-probabilities of the sampling policy are recomputed differently from those in the loss: check "
        "dropout, dtype, temperature and padding.",
    ),
    Rule(
        id="policy.collapse",
        keys=("rldk/policy/entropy",),
        condition="collapse",
        warm_up_samples=5,
        persistence=(3, 4),
        silences=(
            "entropy.collapse",
            "diversity.collapse",
            "reward.no_signal",
            "length.collapse",
            "grad.vanishing",
            "update.none",
        ),
        critical_after=50,
        message="The policy has lost its variety without having solved the task, since step {first_step}; of the start "
        "are left: {lost}.",
        advice="Go back to a checkpoint from before, raise the sampling temperature or the KL weight, lower the "
        "learning rate, and look at what completions the reward prefers.",
        quotes=("learning_rate", "beta", "kl_coef", "temperature"),
    ),
    Rule(
        id="entropy.collapse",
        keys=("rldk/policy/entropy",),
        condition="from_start",
        parameters={"direction": "down", "share": 0.9, "beyond": 0.15, "zero_is_missing": True, "unless_learned": True},
        warm_up_samples=5,
        persistence=(6, 6),
        cooldown_steps=20,
        silences=("diversity.collapse",),
        message="Entropy is {value:.3g} nats per token, against {start:.3g} when the run began.",
        advice="The policy hardly samples any more: raise temperature or the KL weight, lower the learning rate, or "
        "clip upwards less tightly (epsilon_high).",
        quotes=("learning_rate", "beta", "temperature", "epsilon_high"),
    ),
    Rule(
        id="entropy.explosion",
        keys=("rldk/policy/entropy",),
        condition="from_start",
        parameters={"direction": "up", "share": 2.0, "beyond": 2.0, "zero_is_missing": True},
        warm_up_samples=5,
        persistence=(3, 4),
        cooldown_steps=20,
        message="Entropy is {value:.3g} nats per token, against {start:.3g} when the run began.",
        advice="Completions turn into noise: lower the learning rate, check the sign of the reward and of any entropy "
        "bonus.",
        quotes=("learning_rate", "temperature"),
    ),
    Rule(
        id="sampler.mismatch",
        keys=("rldk/sampler/k3", "rldk/sampler/logp_diff_mean"),
        condition="level",
        parameters={"threshold": 0.05, "clear": 0.03, "critical": 0.5},
        persistence=(3, 5),
        message="Sampler and trainer disagree by {value:.3g} nats per token (limit {threshold:.3g}).",
        advice="Check dtype, quantisation, temperature and that the sampler got the latest weights; correct by "
        "truncated importance sampling if it must stay.",
        quotes=("temperature", "use_vllm"),
    ),
)
