"""Pages of the rules about values that are not finite."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

COUNT = (
    "No limit: one is too many. The count is taken before the row is made, since trainers filter NaN from their logs."
)

PAGES = {
    "nan.weights": Page(
        "A weight that is NaN makes every output NaN. transformers hides it: with logging_nan_inf_filter it shows the "
        "running mean of the loss in its place, so that the curves look healthy while the run is lost.",
        (
            "A gradient that was infinite or NaN and was not skipped (no loss scaler, or one that is off).",
            "A learning rate at which Adam's second moment underflows in fp16.",
            "A checkpoint or adapter that was broken when it was loaded: then it fires at the first step.",
        ),
        (
            "Stop. Nothing that is trained from here on can be used.",
            "Resume from the last checkpoint before the step; `rldk-tracking checkpoint DIR` says which are finite.",
            "Train in bf16 rather than fp16, and clip gradients.",
        ),
        COUNT,
    ),
    "nan.gradients": Page(
        "One step on such a gradient makes the weights NaN, unless a loss scaler skips it.",
        (
            "fp16 loss scaling that looks for its scale: single steps, early, are normal.",
            "exp of a large log-ratio, log(0), or a division by a reward spread of 0.",
            "A sequence without one unmasked token.",
        ),
        (
            "See whether nan.loss or nan.reward fired at the same step: then start there.",
            "Look at rldk/policy/ratio_max and rldk/policy/logprob_min just before.",
            "torch.autograd.set_detect_anomaly on that batch names the operation.",
        ),
        COUNT,
    ),
    "nan.loss": Page(
        "The trainer may show a clean running mean in its place, and go on.",
        (
            "A mask without tokens, so that a mean is 0 / 0.",
            "Log-probabilities of -inf where a token is impossible under one of the two policies.",
            "Rewards that are NaN or infinite.",
        ),
        (
            "Check the rewards of the step, then the masks, then the log-probabilities.",
            "Set logging_nan_inf_filter=False while you look.",
        ),
        COUNT,
    ),
    "nan.reward": Page(
        "One NaN score makes the advantages of its group NaN (GRPO, RLOO), or the whitening of the whole batch (PPO). "
        "Of several reward functions TRL adds what is finite, and hides the function that has failed. None is no "
        "fault: a function abstains with it, and is left out.",
        (
            "The reward function divides by a length or a count that can be 0.",
            "It parses a number out of a completion that holds none, or `nan`, or `inf`.",
            "A reward model in fp16 overflows on long completions.",
        ),
        (
            "Call the function on an empty, a cut and a malformed completion.",
            "Where there are several, rldk/reward/function/<name>/not_finite says which one fails.",
            "Return a finite worst score, or None where the function has no opinion.",
        ),
        COUNT,
    ),
}
