"""The end of a training, in time for backends whose run is ended by a callback of the trainer's."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from transformers import TrainerCallback

from rldk_tracking.run import Run


class RunOwner(Protocol):
    """A callback that drives a run, as a monitor does."""

    @property
    def run(self) -> Run | None:
        """The run; None before training begins and after it."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the run."""


class CloseBeforeReporters(TrainerCallback):  # type: ignore[misc]
    """The first of a trainer's callbacks. At train end it closes the run while its backends' runs are open.

    The callbacks of `report_to` come before the user's, and at train end some of them end their backend's run: a last
    row would open a second one. Where no tracker has such a backend, the owner closes the run in its own turn, after
    what the user's callbacks before it have logged.

    Args:
        owner: the one that drives the run. It is not kept alive from here.
    """

    def __init__(self, owner: RunOwner) -> None:
        self._owner = weakref.ref(owner)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        owner = self._owner()
        run = None if owner is None else owner.run
        if owner is None or run is None:
            return
        # On every rank here, since they exchange; only rank 0 has trackers.
        with run.shield.at("the last row"):
            run.complete()
        if run.publisher.ends_with_trainer:
            owner.on_train_end(args, state, control)


def close_before_reporters(trainer: Any, owner: RunOwner) -> None:
    """Have a trainer's run closed in time. In the place of an earlier training's; nothing without a trainer."""
    handler = getattr(trainer, "callback_handler", None)
    if handler is not None:
        others = [callback for callback in handler.callbacks if not isinstance(callback, CloseBeforeReporters)]
        # A new list: the handler is going through the old one.
        handler.callbacks = [CloseBeforeReporters(owner), *others]
