"""Critic, gradients, updates, learning rate."""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

RULES = (
    Rule(
        id="value.explained_variance",
        keys=("rldk/value/explained_variance",),
        condition="level",
        parameters={"threshold": 0.0, "clear": 0.05, "direction": "below", "span": 10.0, "unless_improving": 0.2},
        warm_up_samples=30,
        persistence=(10, 10),
        cooldown_steps=50,
        message="The critic explains {value:.2g} of the returns' variance: worse than a constant.",
        advice="Give the critic a higher learning rate or weight, start it from the reward model, or normalise "
        "returns.",
        quotes=("learning_rate", "vf_coef", "gamma", "lam"),
    ),
    Rule(
        id="value.loss",
        keys=("rldk/value/loss",),
        condition="jump",
        parameters={"z": 10.0, "ratio": 5.0},
        persistence=(3, 4),
        cooldown_steps=20,
        message="The value loss is {value:.3g} (limit {threshold:.3g}), usually {normal:.3g}.",
        advice="Clip the rewards or the value updates, lower the critic's learning rate.",
        quotes=("learning_rate", "vf_coef", "cliprange_value"),
    ),
    Rule(
        id="grad.explosion",
        keys=("rldk/grad/norm",),
        condition="jump",
        parameters={"z": 12.0, "ratio": 10.0, "floor": 10.0, "product": 1500.0, "minimum": 8, "accept_after": 50},
        cooldown_steps=20,
        message="The gradient norm is {value:.3g} (limit {threshold:.3g}), usually {normal:.3g}.",
        advice="Clipping bounds the step but not its direction. Look at the rewards and ratios of this batch; lower "
        "the learning rate if it repeats.",
        quotes=("learning_rate", "max_grad_norm"),
    ),
    Rule(
        id="grad.vanishing",
        keys=("rldk/grad/norm",),
        condition="from_start",
        parameters={"direction": "down", "share": 0.999, "skip_zero": True},
        warm_up_samples=8,
        persistence=(8, 10),
        cooldown_steps=50,
        message="The gradient norm is {value:.3g}, against {start:.3g} when the run began.",
        advice="The loss no longer depends on the weights: look at ties of the reward, entropy and the learning rate.",
        quotes=("learning_rate", "beta"),
    ),
    Rule(
        id="grad.flow",
        keys=("rldk/grad/layers_without",),
        condition="level",
        parameters={"threshold": 0.0},
        persistence=(5, 6),
        message="{value:.0f} layers get no gradient since step {first_step}.",
        advice="Look for a detach, a frozen block that should train, or an adapter that is not in the graph.",
    ),
    Rule(
        id="update.none",
        keys=("rldk/update/effective_lr", "rldk/grad/norm"),  # of all weights: some layers may rightly stand still
        condition="still",
        parameters={"unless_above": {"rldk/reward/group_tied_fraction": 0.5}},
        persistence=(8, 8),
        clear_after=2,
        cooldown_steps=20,
        message="Nothing is learned since step {first_step}: {key} is 0.",
        advice="Check that parameters require gradients and are in the optimizer, that the learning rate is above 0 "
        "and that the loss reaches the weights.",
        quotes=("learning_rate", "lr_scheduler_type", "warmup_steps"),
    ),
    Rule(
        id="update.frozen",
        keys=("rldk/update/frozen_layers",),
        condition="level",
        parameters={"threshold": 0.0},
        persistence=(8, 10),
        message="{value:.0f} layers of the optimizer have not moved since step {first_step}.",
        advice="Look for parameters that get no gradient, or updates too small for the weights' dtype (bf16 weights "
        "round them away).",
        quotes=("learning_rate", "bf16"),
    ),
    Rule(
        id="update.too_large",
        keys=("rldk/update/ratio/p50", "rldk/update/ratio/p90"),
        condition="jump",
        parameters={"z": 12.0, "ratio": 10.0, "floor": 0.003, "accept_after": 50},
        persistence=(2, 3),
        cooldown_steps=20,
        message="One step moves the weights by {value:.2g} of their norm (limit {threshold:.2g}), usually by "
        "{normal:.2g}.",
        advice="Lower the learning rate or lengthen the warm-up.",
        quotes=("learning_rate", "max_grad_norm", "warmup_steps"),
    ),
    Rule(
        id="lr.spike",
        keys=("rldk/update/learning_rate",),
        condition="rate_response",
        clear_after=10,
        critical_after=20,
        silences=(
            "kl.*",
            "policy.*",
            "entropy.*",
            "reward.*",
            "value.*",
            "advantage.*",
            "length.*",
            "diversity.*",
            "grad.*",
            "update.*",
            "throughput.*",
            "health.*",
        ),
        message="The learning rate rose {rise:.3g} times, from {before:.3g} to {value:.3g}, and {answering} answered: "
        "{reached:.3g}, usually {usual:.3g}.",
        advice="Lower the rate or raise it over more steps.",
        quotes=("learning_rate", "lr_scheduler_type", "warmup_steps"),
    ),
    Rule(
        id="lr.zero",
        keys=("rldk/update/learning_rate",),
        condition="still",
        parameters={"after_motion": True},
        persistence=(4, 4),
        clear_after=1,
        silences=("update.none", "update.frozen"),
        message="The learning rate is 0 since step {first_step}.",
        advice="The schedule has ended before the training: set max_steps or the number of training steps of the "
        "scheduler.",
        quotes=("learning_rate", "lr_scheduler_type", "max_steps"),
    ),
)
