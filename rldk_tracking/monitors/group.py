"""GRPO's and RLOO's diagnostics: rollouts in groups of completions of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rldk_tracking.messages.arguments import flag
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.probes.base import Probe
from rldk_tracking.probes.rollouts import RolloutProbe


class GroupMonitor(Monitor):
    """Group-relative diagnostics in one callback, alone or with others: ties, truncation, KL, clipping, diversity.

    Groups of series (see `rldk-tracking keys`): reward, advantage, value, kl, policy, sampler, length,
    diversity, nan.

    Args:
        log_samples: log the best and worst completions now and then as a table.
        options: as for `Monitor`.

    Examples:
        >>> from rldk_tracking import GroupMonitor
        >>> monitor = GroupMonitor(rules="strict")  # GRPOTrainer(..., callbacks=[monitor])
        >>> monitor.alerts
        []
    """

    def __init__(self, *, log_samples: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._log_samples = flag("log_samples", log_samples)

    def make_probes(self) -> Sequence[Probe]:
        return [RolloutProbe(log_samples=self._log_samples)]
