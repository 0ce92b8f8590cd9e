"""Series of training itself: loss, preferences, gradients, updates, weights, and what is not a number."""

from __future__ import annotations

from rldk_tracking.keys.key import EXTREMES, LINEAR, NORM_QUANTILES, Key

KEYS = (
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
        "share of pairs with a positive margin, as logged: over the steps since the log before",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/reward_chosen",
        "1",
        "Implicit reward of the chosen text; 0 when training begins at its reference.",
        "mean over texts of beta (log pi - log pi_ref), as logged; of beta log pi in trainers without a reference",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/reward_rejected",
        "1",
        "Implicit reward of the rejected text.",
        "mean over texts, likewise",
        "logs",
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
        "Below 0 the model finds the chosen texts less likely than its reference does.",
        "reward_chosen / beta = mean over texts of log pi - log pi_ref; absent without a reference",
        "logs",
        "higher",
    ),
    Key(
        "rldk/preference/rejected_logps_drift",
        "nats",
        "The same of the rejected texts.",
        "reward_rejected / beta, likewise",
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
        'Batch size above which larger batches bring little (McCandlish et al. 2018). Only at the level "full" and '
        "with gradient accumulation; samples count as independent, which completions of one prompt are not quite.",
        "B_simple = tr(S) / |G|^2, by least squares from |gradient|^2 after each micro-batch of an accumulation",
        "optimizer",
    ),
    *(
        Key(
            f"rldk/update/ratio/{stat}",
            "1",
            "How far one optimizer step moves a layer, against its size. With LoRA, of the weights that it makes.",
            f"{name}, {LINEAR}, over layers of |change| / |weights|: mean norms over the optimizer steps of the row "
            "(PPO has several), weights after each step; LoRA: scale |B' A' - B A| / |W|, W without the adapter",
            "optimizer",
        )
        for stat, name in NORM_QUANTILES
    ),
    Key(
        "rldk/update/adam_rms",
        "1",
        "How sure Adam is of its direction: near 1 gradients agree, near 0 they cancel. Of torch's Adam and AdamW "
        "with weights of float32 or bfloat16.",
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
        "How far a weight moves in one step; elements without a gradient, such as rows of unused tokens, count too.",
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
        "Euclidean norm, mean over the optimizer steps; see rldk_tracking/metrics/layers.py for which layers",
        "optimizer",
    ),
    Key(
        "rldk/update/layer_ratio/<layer>",
        "1",
        "How far one optimizer step moves one of the few layers farthest from the rest.",
        "|change| / |weights|, as of rldk/update/ratio",
        "optimizer",
    ),
    Key(
        "rldk/lr/change",
        "1",
        "By what factor the schedule changed the learning rate; see rldk_tracking/probes/schedule.py.",
        "rate at the change / rate before it",
        "optimizer",
    ),
    Key("rldk/lr/change_step", "steps", "When the schedule changed the learning rate.", "its step", "optimizer"),
    *(
        Key(
            f"rldk/lr/{name}_response",
            "standard errors",
            f"How far {what} left its trend when the schedule changed the learning rate: 2 is little, 5 is much.",
            "after a jump, the mean of up to 10 rows minus the line through up to 20 rows before it; after a smooth "
            "change, the gap between the lines on its two sides; over the standard error",
            "optimizer",
        )
        for name, what in (("loss", "the loss"), ("kl", "the KL"), ("grad_norm", "the gradient norm"))
    ),
    Key(
        "rldk/weight/norm",
        "1",
        "Size of the trained weights, after the step.",
        "Euclidean norm over all parameters, mean over the optimizer steps",
        "optimizer",
    ),
    *(
        Key(
            f"rldk/weight/layer_norm/{stat}",
            "1",
            "Size of a layer, after the step.",
            f"{name} over layers",
            "optimizer",
        )
        for stat, name in (*NORM_QUANTILES, *EXTREMES)
    ),
)
