"""Checkpoints: has each one looked at after it was saved, in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from rldk_tracking.checkpoint.background import BackgroundScans
from rldk_tracking.checkpoint.baselines import Baselines
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.probes.checkpoint_log import CheckpointLog
from rldk_tracking.probes.memory_log import MemoryLog

logger = logging.getLogger(__name__)


class CheckpointProbe(Probe):
    """Logs `rldk/checkpoint/*` and `rldk/memory/*`, tables of the checkpoints and of the worst layers, and pictures of
    layers by step.

    Rank 0 looks at every `checkpoint-<step>` folder of the trainer's output folder after it was saved. The series
    appear in the row of the step at which the scan has ended; `rldk/checkpoint/step` says which checkpoint it was.

    Args:
        level: "light" (files alone), "standard" (every tensor once), "full" (spectral norms too).
        reference: the model that training began from, to measure the drift from. By default the model's own
            `name_or_path`, where that is a folder.
        keep_weights: where `save_total_limit` deletes checkpoints, keep the weights (not the optimizer's state) of the
            first and of the one before, until training ends. Without them the drift from those ends too.
        close_timeout: seconds to wait at the end of the training for the last scan.
    """

    def __init__(
        self,
        level: Literal["light", "standard", "full"] = "standard",
        *,
        reference: str | None = None,
        keep_weights: bool = True,
        close_timeout: float = 10.0,
    ) -> None:
        self.level: Literal["light", "standard", "full"] = level
        self.reference = None if reference is None else Path(reference)
        self.keep_weights = keep_weights
        self.close_timeout = close_timeout
        self._training = Training()
        self._scans: BackgroundScans | None = None
        self._baselines: Baselines | None = None
        self._log: CheckpointLog | None = None
        self._memory: MemoryLog | None = None
        self._memory_row: Mapping[str, float] = {}
        self._said_missing = False

    @property
    def values(self) -> Mapping[str, float]:
        """The latest value of each key."""
        return {} if self._log is None else self._log.values

    @property
    def scores(self) -> Mapping[int, float]:
        """The score of each checkpoint that was scanned, by step."""
        return {} if self._log is None else self._log.scores

    def begin(self, training: Training) -> None:
        self._training = training
        if _rank() > 0:
            return
        # A loop of somebody's own may have no folder, and then nothing is saved.
        folder = getattr(training.args, "output_dir", None)
        self._log = CheckpointLog(training.publish, training.args)
        self._memory = MemoryLog(training.publish, training.args)
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
        # What is finished at the last step is logged with the last checkpoint: one row cannot hold two of them.
        if self._scans is not None and not data.is_last:
            data.add(self._log_scans(self._scans.finished()))

    def saved(self, step: int) -> None:
        if self._baselines is None:
            return
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
        metrics = {} if self._scans is None else self._log_scans(self._scans.close(self.close_timeout))
        self._scans, self._training = None, Training()
        if self._baselines is not None:
            self._baselines.close()
            self._baselines = None
        return metrics

    def _log_scans(self, scans: list[Scan]) -> dict[str, float]:
        if not scans or self._log is None or self._baselines is None:
            return {}
        for found in scans:
            self._baselines.scanned(found)
        return self._log.log_all(scans)

    def _log_memory(self, step: int) -> None:
        model = self._training.model
        optimizer: Any = self._training.optimizer or getattr(self._training.trainer, "optimizer", None)
        if self._log is None or self._memory is None or not isinstance(model, torch.nn.Module):
            return
        size = self._log.values.get("rldk/checkpoint/size_gib")
        self._memory_row = self._memory.log(model, optimizer, step, size, len(self._log.scores))
        self._log.values.update(self._memory_row)


def local_folder(model: Any) -> Path | None:
    """Where a model, or the model below an adapter, was loaded from, if that is a folder."""
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    return Path(name) if name and Path(name).is_dir() else None


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
