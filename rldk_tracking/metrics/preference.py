"""What preference training (DPO, KTO, ORPO, CPO and relatives) does to chosen and rejected texts, from the logs.

| key | value |
|---|---|
| rldk/preference/margin | implicit reward of the chosen minus that of the rejected text |
| rldk/preference/accuracy | share of pairs with a positive margin |
| rldk/preference/reward_chosen, reward_rejected | beta (log pi - log pi_ref); without a reference beta log pi |
| rldk/preference/chosen_logps, rejected_logps | mean log-probability of a text, in nats |
| rldk/preference/chosen_logps_drift, rejected_logps_drift | reward / beta: log pi - log pi_ref, of the same texts |

The log-probability of a text is a sum over its tokens, in ORPO a mean. A loss can be driven down by making the chosen
text less likely too, only less so than the rejected one; the drifts show it (Razin et al. 2024, "Unintentional
unalignment: likelihood displacement in direct preference optimization"). They are paired: each batch is compared with
what the reference makes of the same texts, so that which texts a batch holds does not matter. They need a reference and
its beta.
"""

from __future__ import annotations

import math
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


def compute(logs: Mapping[str, object]) -> dict[str, float]:
    """The keys of this group that one entry of a trainer's logs holds; numbers may be written as text."""
    found = {}
    for name, key in LOGGED.items():
        value = _number(logs.get(name))
        if value is not None and not (key in DRIFTS and SCORED in logs):
            found[key] = value
    return found


def drifts(row: Mapping[str, float], beta: float) -> dict[str, float]:
    """How much more likely chosen and rejected texts are than under the reference, in nats; below 0 less.

    Args:
        row: has the implicit rewards.
        beta: what they are multiples of; above 0.
    """
    return {drift: row[reward] / beta for reward, drift in DRIFTS.items() if reward in row}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
