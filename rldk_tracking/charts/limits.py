"""Limits that the user gave, as series beside what they limit: no tracker draws a line by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

LIMITED = {
    "kl.high": "rldk/kl/limit",
    "goal.max_kl_divergence": "rldk/kl/limit",
    "grad.explosion": "rldk/grad/limit",
    "goal.max_gradient_norm": "rldk/grad/limit",
    "policy.clip_fraction": "rldk/policy/limit",
    "goal.max_clip_fraction": "rldk/policy/limit",
    "length.truncated": "rldk/length/limit",
    "goal.max_truncated_fraction": "rldk/length/limit",
}
"""Rule to the series that shows its limit."""


def limits_of(overrides: Mapping[str, Mapping[str, Any]], goals: Mapping[str, float]) -> dict[str, float]:
    """The series of a run's limits; those of rules that the user left alone have none, since they are not fixed."""
    given = {rule: fields.get("threshold") for rule, fields in overrides.items()}
    given |= {f"goal.{name}": limit for name, limit in goals.items()}
    return {
        LIMITED[rule]: float(limit)
        for rule, limit in given.items()
        if rule in LIMITED and isinstance(limit, (int, float)) and math.isfinite(limit)
    }
