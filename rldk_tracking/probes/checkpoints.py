"""Checkpoints: has each one looked at after it was saved, in a process of its own."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from rldk_tracking.checkpoint.background import BackgroundScans, Unscanned
from rldk_tracking.checkpoint.baselines import Baselines
from rldk_tracking.checkpoint.findings import LEVELS, Scan, step_of
from rldk_tracking.checkpoint.score import Trend, best_by, best_of_trainer, trend
from rldk_tracking.messages import arguments
from rldk_tracking.messages.arguments import printable
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.probes.checkpoint_log import CheckpointLog

if TYPE_CHECKING:
    from rldk_tracking.ranks import Merged

logger = logging.getLogger(__name__)

REWARD = "rldk/reward/mean"
TRAINED_ON = "the mean reward since the checkpoint before,"
BEST = ("best_metric", "best_global_step", "best_model_checkpoint")
"""Of a transformers trainer's state."""


class CheckpointProbe(Probe):
    """Logs `rldk/checkpoint/*` and `rldk/memory/*`, tables of the checkpoints and of the worst layers, and pictures of
    layers by step.

    Rank 0 looks at every `checkpoint-<step>` folder of the trainer's output folder after it was saved. What it finds
    is written, once it is known, into the row of the step at which the checkpoint was saved, that of each checkpoint;
    of one that was not looked at, `rldk/checkpoint/scanned` is 0 there.

    Args:
        level: "light" (files alone), "standard" (every tensor once), "full" (spectral norms too).
        reference: the model that training began from, to measure the drift from. By default the model's own
            `name_or_path`, where that is a folder.
        keep_weights: where `save_total_limit` deletes checkpoints, keep the weights (not the optimizer's state) of the
            first and of the one before, until training ends. Without them the drift from those ends too.
        close_timeout: seconds to wait at the end of the training for the last scans.

    Raises:
        TypeError, ValueError: no such level; no model at `reference`, a folder or one that was downloaded.
    """

    def __init__(
        self,
        level: Literal["light", "standard", "full"] = "standard",
        *,
        reference: str | None = None,
        keep_weights: bool = True,
        close_timeout: float = 10.0,
    ) -> None:
        arguments.word("level", level, LEVELS)
        self.level: Literal["light", "standard", "full"] = level
        self.reference = None if reference is None else model_folder(reference)
        self.keep_weights = arguments.flag("keep_weights", keep_weights)
        self.close_timeout = arguments.number("close_timeout", close_timeout, low=0)
        self._training = Training()
        self._scans: BackgroundScans | None = None
        self._baselines: Baselines | None = None
        self._log = CheckpointLog(self._training.publish, None)
        self._memory_row: Mapping[str, float] = {}
        self._said_missing = self._said_unscanned = False
        self._late: dict[int, dict[str, float]] = {}
        self._rewards: dict[int, float] = {}
        self._since_save: list[float] = [0.0, 0.0]  # sum of the rewards, and of how many steps
        self._trainer_best: dict[str, object] = {}

    @property
    def values(self) -> Mapping[str, float]:
        """The latest value of each key."""
        return self._log.values

    @property
    def scores(self) -> Mapping[int, float]:
        """The score of each checkpoint that was scanned, by step."""
        return self._log.scores

    @property
    def trend(self) -> Trend | None:
        """Which checkpoint is the best, which to keep, since when it got worse; None before the first scan."""
        usable = self._log.usable
        best = best_of_trainer(self._trainer_best, usable) or best_by(TRAINED_ON, self._rewards, usable)
        return trend(self.scores, usable, best)

    def reads(self, training: Training) -> bool:
        """Rank 0 alone looks."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return not distributed or torch.distributed.get_rank() == 0

    def begin(self, training: Training) -> None:
        self._training = training
        self._rewards, self._since_save, self._trainer_best = {}, [0.0, 0.0], {}
        # A loop of somebody's own may have no folder, and then nothing is saved.
        folder = getattr(training.args, "output_dir", None)
        self._log = CheckpointLog(training.publish, training.args)
        limited = bool(getattr(training.args, "save_total_limit", None)) and self.keep_weights and self.level != "light"
        self._baselines = Baselines(
            self.reference if self.reference is not None else local_folder(training.model),
            keep_in=Path(folder) if folder is not None and limited else None,
        )
        if folder is not None:
            resumed = getattr(getattr(training.trainer, "state", None), "global_step", None) or 0
            self._baselines.begin(Path(folder), int(resumed))

    def collect(self, data: StepData) -> None:
        data.add(self._memory_row)
        self._memory_row = {}
        if self._scans is not None:
            self._take(self._scans.finished())

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> Mapping[str, float]:
        if REWARD in row:
            self._since_save = [self._since_save[0] + row[REWARD], self._since_save[1] + 1]
        return {}

    def late_rows(self) -> Mapping[int, Mapping[str, float]]:
        rows, self._late = self._late, {}
        return rows

    def saved(self, step: int) -> None:
        if self._baselines is None:
            return
        state = getattr(self._training.trainer, "state", None)
        self._trainer_best = {name: getattr(state, name, None) for name in BEST}
        if self._since_save[1]:
            self._rewards[step] = self._since_save[0] / self._since_save[1]
        self._since_save = [0.0, 0.0]
        path = Path(self._training.args.output_dir) / f"checkpoint-{step}"
        if not path.is_dir():
            if not self._said_missing:
                self._said_missing = True
                logger.warning("rldk: %s was said to be saved and is not there; it is not looked at.", path)
            return
        against = self._baselines.take(path)
        self._log_memory(step)
        if self._scans is None:
            self._scans = BackgroundScans(self.level)
        self._scans.submit(path, against)

    def end(self) -> Mapping[str, float]:
        self._said_unscanned = False
        if self._scans is not None:
            self._take(self._scans.close(self.close_timeout))
        self._scans, self._training = None, Training()
        if self._baselines is not None:
            self._baselines.close()
            self._baselines = None
        return {}

    def _take(self, ended: Sequence[Scan | Unscanned]) -> None:
        """Make a row of each scan that has ended."""
        if self._baselines is None:
            return
        for found in ended:
            if isinstance(found, Scan):
                self._baselines.scanned(found)
                self._late[found.step or 0] = self._log.log(found)
            else:
                step = step_of(found.path) or 0
                self._late[step] = self._log.log_unscanned(step)
        # One that the trainer has deleted meanwhile needs no word.
        unscanned = [found for found in ended if isinstance(found, Unscanned) and found.path.is_dir()]
        if unscanned and not self._said_unscanned:
            self._said_unscanned = True
            logger.warning(
                "rldk: %s was not looked at: %s. `rldk-tracking checkpoint %s` looks at it.",
                " and ".join(found.path.name for found in unscanned),
                printable(unscanned[0].reason.rstrip(".")),
                unscanned[0].path.parent,
            )

    def _log_memory(self, step: int) -> None:
        model = self._training.model
        optimizer: Any = self._training.optimizer or getattr(self._training.trainer, "optimizer", None)
        if isinstance(model, torch.nn.Module):
            self._memory_row = self._log.log_memory(model, optimizer, step)


def local_folder(model: Any) -> Path | None:
    """Where a model was loaded from, if that is a folder; or where the model below an adapter was downloaded to."""
    config = getattr(model, "config", None)
    name = getattr(config, "name_or_path", None)
    if not name:
        return None
    if Path(name).is_dir():
        return Path(name)
    return downloaded(name, getattr(config, "_commit_hash", None)) if hasattr(model, "peft_config") else None


def model_folder(name: str | os.PathLike[str]) -> Path:
    """A folder, or where a model of this name was downloaded to.

    Raises:
        TypeError, ValueError: there is neither.
    """
    found = arguments.folder("reference", name, '"path/of/the/model"') or ""
    folder = Path(found) if Path(found).is_dir() else downloaded(found)
    if folder is None:
        raise ValueError(
            f"reference must be the folder of a model, or the name of one that was downloaded, got {found!r}."
        )
    return folder


def downloaded(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model of the Hugging Face Hub that was downloaded before. Nothing is asked of the Hub."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except (ImportError, HFValidationError):
        return None
    return Path(found).parent if isinstance(found, str) else None
