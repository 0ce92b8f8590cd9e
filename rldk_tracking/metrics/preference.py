"""What preference training (DPO, KTO, ORPO, CPO and relatives) does to chosen and rejected texts, from the logs.

| key | value |
|---|---|
| rldk/preference/margin | implicit reward of the chosen minus that of the rejected text |
| rldk/preference/accuracy | share of pairs with a positive margin |
| rldk/preference/chosen_logps, rejected_logps | mean log-probability of a text, in nats |
| rldk/preference/chosen_logps_drift, rejected_logps_drift | the same minus its mean over the first steps |

The log-probability of a text is a sum over its tokens, in ORPO a mean. A loss can be driven down by making the chosen
text less likely too, only less so than the rejected one; the drifts show it (Razin et al. 2024, "Unintentional
unalignment: likelihood displacement in direct preference optimization").
"""

from __future__ import annotations

import math
from collections.abc import Mapping

LOGGED = {
    "rewards/margins": "rldk/preference/margin",
    "rewards/accuracies": "rldk/preference/accuracy",
    "logps/chosen": "rldk/preference/chosen_logps",
    "logps/rejected": "rldk/preference/rejected_logps",
}
"""TRL's names of the values, stable since v0.5."""


def compute(logs: Mapping[str, object]) -> dict[str, float]:
    """The keys of this group that one entry of a trainer's logs holds; numbers may be written as text."""
    found = {}
    for name, key in LOGGED.items():
        value = _number(logs.get(name))
        if value is not None:
            found[key] = value
    return found


def drift(current: float, baseline: float) -> float:
    """How far a mean log-probability has moved from its mean over the first steps, in nats; below 0 it fell."""
    return current - baseline


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
