"""GRPO's and RLOO's diagnostics: rollouts in groups of completions of one prompt."""

from __future__ import annotations

from rldk_tracking.monitors.rollouts import RolloutMonitor


class GroupMonitor(RolloutMonitor):
    """Group-relative diagnostics in one callback, alone or beside others: ties, truncation, KL, clipping, diversity.

    The arguments are those of `Monitor`.
    """
