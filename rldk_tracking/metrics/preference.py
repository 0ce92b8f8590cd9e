"""What preference training (DPO, KTO, ORPO, CPO and relatives) does to chosen and rejected texts, from the logs.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/preference/margin | 1 | logs | higher
        Implicit reward of the chosen over the rejected text.
        = mean over pairs, as logged
    rldk/preference/accuracy | 1 | logs | higher
        Share of pairs that the model ranks as people did.
        = share of pairs with a positive margin, as logged: over the steps since the log before
    rldk/preference/reward_chosen | 1 | logs | higher
        Implicit reward of the chosen text; 0 when training begins at its reference.
        = mean over texts of beta (log pi - log pi_ref), as logged; of beta log pi in trainers without a reference
    rldk/preference/reward_rejected | 1 | logs
        Implicit reward of the rejected text.
        = mean over texts, likewise
    rldk/preference/chosen_logps | nats | logs | higher
        Log-probability of a chosen text: a sum over its tokens, in ORPO a mean.
        = mean over texts, as logged
    rldk/preference/rejected_logps | nats | logs
        Log-probability of a rejected text, likewise.
        = mean over texts, as logged
    rldk/preference/chosen_logps_drift | nats | logs | higher
        Below 0 the model finds the chosen texts less likely than its reference does.
        = reward_chosen / beta = mean over texts of log pi - log pi_ref; absent without a reference
    rldk/preference/rejected_logps_drift | nats | logs
        The same of the rejected texts.
        = reward_rejected / beta, likewise

The log-probability of a text is a sum over its tokens, in ORPO a mean. A loss can be driven down by making the chosen
text less likely too, only less so than the rejected one; the drifts show it (Razin et al. 2024, "Unintentional
unalignment: likelihood displacement in direct preference optimization"). They are paired: each batch is compared with
what the reference makes of the same texts, so that which texts a batch holds does not matter. They need a reference and
its beta.
"""

from __future__ import annotations

from collections.abc import Mapping

LOGGED = {
    "rewards/margins": "rldk/preference/margin",
    "rewards/accuracies": "rldk/preference/accuracy",
    "rewards/chosen": "rldk/preference/reward_chosen",
    "rewards/rejected": "rldk/preference/reward_rejected",
    "logps/chosen": "rldk/preference/chosen_logps",
    "logps/rejected": "rldk/preference/rejected_logps",
}
"""TRL's names of the values, stable since v0.5."""
DRIFTS = {
    "rldk/preference/reward_chosen": "rldk/preference/chosen_logps_drift",
    "rldk/preference/reward_rejected": "rldk/preference/rejected_logps_drift",
}
SCORED = "rewards/probabilities"
"""Logged by Nash-MD beside `rewards/chosen`, which is a judge's score there and no implicit reward."""


def drifts(row: Mapping[str, float], beta: float) -> dict[str, float]:
    """How much more likely chosen and rejected texts are than under the reference, in nats; below 0 less.

    Args:
        row: has the implicit rewards.
        beta: what they are multiples of; above 0.

    >>> drifts({"rldk/preference/reward_chosen": -0.5}, beta=0.1)
    {'rldk/preference/chosen_logps_drift': -5.0}
    """
    return {drift: row[reward] / beta for reward, drift in DRIFTS.items() if reward in row}
