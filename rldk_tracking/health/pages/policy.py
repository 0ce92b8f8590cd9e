"""Pages of the rules about divergence, policy updates, entropy and the sampler."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

PAGES = {
    "reference.mismatch": Page(
        "The KL penalty pulls towards a model that training did not begin from: every step pays for a distance that "
        "was there before, and the policy is dragged somewhere nobody chose.",
        (
            "The reference was loaded from another checkpoint, or without the adapter that the policy began with.",
            "A resume: the policy goes on from a checkpoint while the reference is the base model. Then it is meant.",
            "Dropout is on, or the two run in different dtypes, or under different chat templates.",
        ),
        (
            "Compare the two models' log-probabilities of one text before training.",
            "Name the reference explicitly, and merge or load the adapter for it.",
        ),
        "Both are the same model at step 1, so that the true value is 0 up to rounding (1e-3 in bf16). Measured on the "
        "rollout, 0.05 is far beyond it. In logs alone 0.2 at the first step, since 17 of 79 published runs start "
        "above 0 for harmless reasons, and 1.0 for a mean over several steps: every published run above it was in "
        "trouble.",
    ),
    "kl.high": Page(
        "Beyond some distance, what the proxy reward gains the task loses (Gao et al. 2022, arXiv:2210.10760). "
        "Distance itself is no fault: a policy must move to learn.",
        (
            "The learning rate is too high for the batch.",
            "The KL weight is 0 or too small, or the penalty is not in the loss at all.",
            "The reward has stopped to tell completions apart, so that only noise moves the policy.",
        ),
        (
            "Look whether reward.no_signal fires too: then the reward is the cause.",
            "Raise beta (kl_coef) or halve the learning rate, from a checkpoint before first_step.",
            "Give `overrides={'kl.high': {'threshold': ...}}` if you know how far is right for your task.",
        ),
        "0.8 nats per token unpaid: published healthy runs stay below 0.56 in 95 % of their rows and reach 1.3 in "
        "single ones. Paid for means that the smoothed reward rose by half a standard deviation of its noise at that "
        "distance; 1.5 times that distance stays allowed. 10 nats is what a reference gives to tokens that it finds "
        "impossible.",
    ),
    "kl.spike": Page(
        "One batch threw the policy far from the reference. Often it comes back by itself; if not, it is the first "
        "sign of a collapse.",
        (
            "A few tokens that the reference finds impossible (another language, a repeated symbol).",
            "One update with an outlier of an advantage or a gradient that was not clipped.",
            "A stale sampler after a weight update that failed.",
        ),
        (
            "Read the completions of this step (log_samples=True).",
            "See whether grad.explosion or advantage.scale fired one step before.",
        ),
        "12 robust standard deviations, 10 times the median and 5 nats above it: the largest spike of a published "
        "healthy run reaches 1.3.",
    ),
    "kl.negative": Page(
        "The mean log-ratio of a policy's own samples is never below 0, except by chance. If it is, the completions "
        "were not drawn from the policy that scores them.",
        (
            "Sampling with another temperature, top_p or top_k than the log-probabilities are computed with.",
            "The sampler holds older weights.",
            "Log-probabilities are summed over padding.",
        ),
        (
            "Set temperature to 1 and switch top_p and top_k off for a few steps.",
            "Look at rldk/sampler/*: disagreement there names the sampler.",
        ),
        "Four standard errors of the mean, with completions as the units; 0.1 where a log has no error.",
    ),
    "policy.clip_fraction": Page(
        "Tokens that are clipped give no gradient: the batch is spent. The policy moved further within one batch than "
        "the trust region allows.",
        (
            "Too many epochs or iterations on one batch.",
            "A learning rate that is too high.",
            "The log-probabilities at sampling differ from those at training (see policy.stale, sampler.mismatch).",
        ),
        ("Fewer epochs (num_ppo_epochs, num_iterations).", "A lower learning rate, or a larger batch."),
        "Published healthy runs clip at most 8 % of the tokens in any row; 30 % leaves room for several epochs. It "
        "counts only where the effective sample size is below 0.8 too, if that is known: sequence-level ratios (RLOO, "
        "GSPO) clip half of their completions without harm.",
    ),
    "policy.stale": Page(
        "In the first epoch on a batch the policy has not moved, so that every ratio is 1. If it is not, the "
        "log-probabilities are recomputed differently from how they were sampled, and every update is biased.",
        (
            "Dropout is on in one of the two passes.",
            "Different dtypes, attention kernels, or padding sides.",
            "The temperature divides the logits in one pass only.",
        ),
        ("Score one batch twice and compare.", "Switch dropout off, and use one dtype."),
        "1.05: rounding moves single ratios by a percent or so, and averages out over a batch.",
    ),
    "policy.collapse": Page(
        "Entropy, variety and reward spread are gone, but the task is not solved: the policy repeats one answer and "
        "cannot explore its way out.",
        (
            "A learning rate that is too high, or a KL weight that is too small.",
            "A reward that is highest for one phrase.",
            "Clipping that allows less upwards than downwards (see arXiv:2503.14476 on clip-higher).",
        ),
        (
            "Go back to a checkpoint before first_step; from here it will not recover.",
            "Raise the sampling temperature, the KL weight or epsilon_high; lower the learning rate.",
        ),
        "Two of the three at a tenth of their start or less. A reward that climbed by more than single rewards ever "
        "differed, is at its best, and still rises or ties at the top excuses the loss. It is over when no two are "
        "below 30 %.",
    ),
    "entropy.collapse": Page(
        "A policy that hardly samples learns nothing new: all completions of a prompt are the same, and with them "
        "their rewards.",
        (
            "Too high a learning rate; updates that only ever reinforce.",
            "No KL penalty and no entropy bonus on a task with one easy answer.",
            "A temperature near 0 at sampling.",
        ),
        (
            "Raise the temperature or the KL weight, lower the learning rate.",
            "Clip upwards less tightly (epsilon_high).",
            "If the task is in fact solved, say so: `context={'max_score': ...}` or a Rollout with max_score.",
        ),
        "A tenth of the start and below 0.15 nats, six rows in a row. 5 % of the rows of healthy published runs are "
        "below 0.02, so that an absolute limit alone would not do. A gradual loss that the reward pays for is excused, "
        "a sudden one (to a fifth within a few rows) never.",
    ),
    "entropy.explosion": Page(
        "The policy turns to noise: the last stop before rewards fall to 0.",
        (
            "A learning rate that is too high; it fires with grad.explosion or lr.spike then.",
            "A sign error: the reward or the advantage is negated.",
            "An entropy bonus that outweighs the reward.",
        ),
        ("Check the sign of the reward.", "Go back to a checkpoint before first_step with a lower learning rate."),
        "Three times the start and above 2 nats: published healthy runs reach 1.5.",
    ),
    "sampler.mismatch": Page(
        "An inference engine that samples with other probabilities than the trainer computes makes the method "
        "off-policy without saying so; such runs collapse late and for no visible reason.",
        (
            "Other dtype, quantisation or kernels in the engine.",
            "A weight synchronisation that failed or lags.",
            "Sampling settings (temperature, top_k, penalties) that the trainer does not know of.",
        ),
        (
            "Synchronise the weights every step and compare one prompt.",
            "Truncated importance sampling (TRL: vllm_importance_sampling_correction) bounds the damage.",
        ),
        "0.05 nats per token: in published healthy runs with a separate sampler the mean difference is 0.004 to 0.010, "
        "and 0.022 in the worst row.",
    ),
}
