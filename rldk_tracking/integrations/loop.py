"""The callback of a loop that hands over its numbers itself, from the one process that logs for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.run import Run


class LoopCallback(RLDKCallback):
    """`RLDKCallback` for one process of a job: no other rank is waited for, whatever process group there is.

    Args:
        options: as for `RLDKCallback`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._settings.is_alone = True
        self._config: Mapping[str, Any] = {}

    def quote(self, config: Mapping[str, Any]) -> None:
        """Settings of the loop under a trainer's names, such as `learning_rate` and `run_name`, which alerts quote."""
        self._config = dict(config)

    def _begin(self, trainer: Any, args: Any, state: Any, control: Any, model: Any, optimizer: Any) -> Run:
        return super()._begin(trainer, SimpleNamespace(**self._config), state, control, model, optimizer)

    def observe(
        self,
        rollout: Rollout | None = None,
        *,
        step: int,
        update: PolicyUpdate | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """As of `Monitor`. Numbers alone of a step that has its row, as an evaluation's, are added to that row."""
        run = self._run
        last = None if run is None or run.closed else run.latest_step
        if run is None or last is None or step > last or rollout is not None or update is not None:
            return super().observe(rollout, step=step, update=update, metrics=metrics)
        with run.shield.at("observe"):
            run.extra_row(step, metrics or {}, override=False)
        if run.should_stop:
            run.raise_stop(step)
        return run.latest if step == last else {}
