"""The built-in rules as data, one file for a room of the training: read these to know what is watched and why so."""

from __future__ import annotations

from rldk_tracking.health.catalogue import numbers, policy, preference, reward, run, system, training
from rldk_tracking.health.rules import Rule

RULES: dict[str, Rule] = {
    rule.id: rule for module in (numbers, policy, reward, training, preference, system, run) for rule in module.RULES
}
"""Id to rule, as in the preset "safe"."""
