"""accelerate's tracker: what any loop logs with `accelerator.log` is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.integrations import part_of_stack
from rldk_tracking.integrations.loop import LoopCallback
from rldk_tracking.rollout import PolicyUpdate, Rollout

GeneralTracker: Any = part_of_stack("accelerate.tracking", "GeneralTracker")


class RLDKTracker(GeneralTracker):  # type: ignore[misc]
    """`Accelerator(log_with=[RLDKTracker(), "mlflow"])`; first in the list, so that it ends before the others do.

    `accelerator.log(numbers, step)` hands over numbers under a trainer's names or as `rldk/...`;
    `log_kwargs={"rldk": {"rollout": Rollout(...)}}` the tensors of the step. accelerate logs on the main process alone:
    gather there what is to be judged of the others.

    Args:
        options: as for `rldk_tracking.RLDKCallback`.

    Examples:
        >>> from accelerate import Accelerator
        >>> from rldk_tracking import InMemoryTracker
        >>> from rldk_tracking.integrations.accelerate import RLDKTracker
        >>> memory = InMemoryTracker()
        >>> accelerator = Accelerator(log_with=[RLDKTracker(trackers=[memory])])
        >>> accelerator.init_trackers("sums")
        >>> accelerator.log({"reward": 0.5}, step=1)
        >>> accelerator.end_training()
        >>> memory.series["rldk/reward/mean"]
        [(1, 0.5)]
    """

    name: ClassVar[str] = "rldk"
    requires_logging_directory: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._callback = LoopCallback(**options)
        self._step = 0

    @property
    def tracker(self) -> LoopCallback:
        """The callback, with its `alerts` and `metrics`: `accelerator.get_tracker("rldk", unwrap=True)`."""
        return self._callback

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """For accelerate: the `config` of `init_trackers`, which alerts quote where its names are a trainer's."""
        self._callback.quote(values)

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None = None,
        rollout: Rollout | None = None,
        update: PolicyUpdate | None = None,
        **others: Any,
    ) -> None:
        """For accelerate: judge the numbers of a step; one without a number follows the last.

        Raises:
            TrainingStopped: an alert ends the training, with `on_critical="stop"` or a rule of the user's.
        """
        self._step = self._step + 1 if step is None else int(step)
        self._callback.observe(rollout, step=self._step, update=update, metrics=values)

    def finish(self) -> None:
        """For accelerate: the training is over."""
        self._callback.close()
