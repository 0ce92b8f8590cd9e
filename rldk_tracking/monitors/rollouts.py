"""Reads the trainer's rollouts and logs, whatever the algorithm; the monitors of PPO, GRPO and DPO build on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.samples import SampleTable
from rldk_tracking.run import Run
from rldk_tracking.sources.base import Source
from rldk_tracking.sources.detect import source_for
from rldk_tracking.sources.logs import canonical


class RolloutMonitor(Monitor):
    """Hands the rollout of a step, the optimiser's view of it and the trainer's logs to the run.

    Args:
        log_samples: log the best and worst completions now and then as a table.
        options: as for `Monitor`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("rollouts",)

    def __init__(self, *, log_samples: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._source: Source | None = None
        self._samples = SampleTable() if log_samples else None
        # Callback events of something that is no transformers trainer: what it logs is all there is.
        self._has_logs_only = False

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        if not run.claim("rollouts", self):
            return
        if trainer is None:
            self._has_logs_only = True
            return
        self._source = source_for(trainer)
        run.rows_per_rank = self._source.rows_per_rank
        run.honours_stop = getattr(self._source, "honours_stop", True)
        run.read_logs = canonical
        self._source.shield = run.shield
        self._source.ready = run.read_ahead
        self._source.attach(trainer, args)

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if self._source is None:
            if self._has_logs_only:
                run.add_logs(logs)
            return
        observation = run.observation = self._source.read(step, logs)
        run.add(observation.scalars)
        run.rollout_seconds = getattr(self._source, "rollout_seconds", None)
        if self._samples is not None:
            samples = self._samples
            run.afterwards(lambda: samples.offer(run, observation.rollout, step))

    def end(self, run: Run) -> None:
        if self._source is not None:
            self._source.detach()
            self._source = None
