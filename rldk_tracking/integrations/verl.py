"""verl: what it logs is judged, and series and alerts are written beside it. verl imports this module itself:

VERL_USE_EXTERNAL_MODULES=rldk_tracking.integrations.verl python -m verl.trainer.main_ppo ...

verl's trainers hand each step's numbers to `verl.utils.tracking.Tracking`, which hands them to each of its loggers. One
logger is added. Where the logger of MLflow, W&B or Trackio has opened a run, the judged row goes into it as from any
trainer, with alerts and charts; the other loggers (console, file, TensorBoard, ...) are given it as one more row.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.integrations import part_of_stack
from rldk_tracking.journal.options import Options
from rldk_tracking.journal.publisher import FOLDER
from rldk_tracking.trackers.base import Tracker

NAME = "rldk"
"""Of the logger, in `Tracking.logger`."""

logger = logging.getLogger(__name__)


class LoggersTracker(Tracker):
    """The loggers of a `Tracking` that no tracker of ours writes to.

    Args:
        loggers: name to logger, `Tracking.logger`.
        others: names that are left out.
    """

    name: ClassVar[str] = "verl"

    def __init__(self, loggers: Mapping[str, Any], others: set[str]) -> None:
        self._loggers, self._others = loggers, {*others, NAME}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, each in self._loggers.items():
            if name not in self._others:
                each.log(data=dict(metrics), step=step)


class RLDKLogger:
    """One of the loggers of a `Tracking`.

    Args:
        tracking: has its other loggers already.
        experiment: its name.
        config: verl's.
    """

    def __init__(self, tracking: Any, experiment: str, config: Any) -> None:
        from rldk_tracking.integrations.loop import LoopCallback  # every process of a job imports this module
        from rldk_tracking.monitors.training import find_trackers

        options = Options().settings()
        found = find_trackers(None, options)()
        loggers = LoggersTracker(tracking.logger, {tracker.name for tracker in found})
        settings = config.get("trainer", {}) if isinstance(config, Mapping) else {}
        folder = options.output_dir or Path(settings.get("default_local_dir") or ".") / FOLDER
        # What the process of the trainer needs itself says nothing of the workers: only what verl logs is judged.
        self.callback = LoopCallback(monitors=[], trackers=[loggers, *found], output_dir=folder)
        self.callback.quote({"run_name": str(experiment)})

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Judge what verl logs of a step."""
        self.callback.observe(step=int(step), metrics=data)

    def finish(self, exit_code: int) -> None:
        """The training is over, or an exception ends it: then verl gives a code, or lets go of its `Tracking`."""
        if self.callback.run is not None:
            self.callback.run.close("crashed" if exit_code or sys.exc_info()[0] is not None else "finished")


def install() -> None:
    """Give every `Tracking` that is made from now on the logger.

    Raises:
        ImportError: verl is not installed, or its `Tracking` is of another shape.
    """
    tracking = part_of_stack("verl.utils.tracking", "Tracking")
    lacking = [name for name in ("log", "finish") if not callable(getattr(tracking, name, None))]
    if lacking:
        raise ImportError(f"this verl's Tracking has no {' and no '.join(lacking)}(): rldk_tracking cannot join it.")
    begin, end = tracking.__init__, tracking.finish

    @functools.wraps(begin)
    def __init__(  # noqa: N807
        self: Any, project_name: Any, experiment_name: Any, *args: Any, **kwargs: Any
    ) -> None:
        begin(self, project_name, experiment_name, *args, **kwargs)
        if isinstance(getattr(self, "logger", None), dict):
            config = kwargs.get("config", args[1] if len(args) > 1 else None)
            self.logger[NAME] = RLDKLogger(self, experiment_name, config)
        else:
            logger.warning("rldk: this verl's Tracking has no table of loggers: nothing of this training is judged.")

    @functools.wraps(end)
    def finish(self: Any, *args: Any, **kwargs: Any) -> Any:
        loggers = getattr(self, "logger", None)
        ours = loggers.pop(NAME, None) if isinstance(loggers, dict) else None
        if ours is not None:  # before the others, which are given the last row
            ours.finish(kwargs.get("exit_code", args[0] if args else 0))
        return end(self, *args, **kwargs)

    tracking.__init__, tracking.finish = __init__, finish


install()
