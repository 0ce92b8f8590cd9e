"""The callback of a loop that hands over its numbers itself, from the one process that logs for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from rldk_tracking.callback import RLDKCallback
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
