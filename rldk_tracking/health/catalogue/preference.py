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
    Rule(
        id="preference.no_signal",
        keys=("rldk/preference/accuracy",),
        condition="nothing_learned",
        persistence=(3, 3),
        message="Nothing is learned: {value:.0%} of the pairs are ranked as their labels say, with a margin of "
        "{margin:.2g}; {reason}.",
        advice="Look at pairs as the model gets them: chosen and rejected must differ after the chat template and "
        "truncation, and not be swapped. Then at the learning rate, beta, and whether the trained weights move.",
        quotes=("learning_rate", "beta", "max_length"),
    ),
    Rule(
        id="preference.reference_mismatch",
        keys=("rldk/preference/reward_chosen",),
        condition="reference_apart",
        clear_after=10,
        message="The implicit reward is {value:.3g} when training begins, where it should be 0.",
        advice="Check that the reference is the model that training began from: same checkpoint, adapter, dtype and "
        "chat template, dropout off; and that precomputed log-probabilities are its own.",
        quotes=("beta",),
    ),
)
