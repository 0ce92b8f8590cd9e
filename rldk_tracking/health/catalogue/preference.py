"""DPO, KTO, ORPO, CPO and relatives."""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

RULES = (
    Rule(
        id="preference.likelihood_collapse",
        keys=("rldk/preference/chosen_logps_drift",),
        condition="level",
        parameters={"threshold": 1.0, "clear": 0.8, "direction": "above"},
        persistence=(3, 4),
        message="The log-likelihood of chosen answers fell by {value:.0%} of its first value.",
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
