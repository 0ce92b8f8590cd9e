"""DPO, KTO, ORPO, CPO and relatives."""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

RULES = (
    Rule(
        id="preference.likelihood_collapse",
        keys=("rldk/preference/chosen_logps",),
        condition="from_start",
        parameters={"direction": "down", "share": 1.0, "span": 8.0},
        persistence=(5, 6),
        cooldown_steps=50,
        message="Chosen answers have become less likely: {value:.4g} nats, against {start:.4g} when the run began.",
        advice="Add a supervised term (rpo_alpha), raise beta, lower the learning rate or stop earlier.",
        quotes=("learning_rate", "beta", "num_train_epochs"),
    ),
    Rule(
        id="preference.overfit",
        keys=("rldk/preference/accuracy",),
        condition="level",
        parameters={"threshold": 0.985, "clear": 0.95},
        warm_up_samples=10,
        persistence=(10, 10),
        message="The training pairs are told apart in {value:.1%} of the cases since step {first_step}.",
        advice="Hold out pairs and stop at the best held-out accuracy; fewer epochs, lower learning rate.",
        quotes=("learning_rate", "beta", "num_train_epochs"),
    ),
)
