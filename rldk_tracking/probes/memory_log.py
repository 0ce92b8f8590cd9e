"""What the training holds in memory, logged at each save, and what would make it less, logged once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rldk_tracking.checkpoint.memory import footprint, suggestions
from rldk_tracking.probes.base import Publish


class MemoryLog:
    """Logs the memory of a run.

    Args:
        publish: shows the table of suggestions.
        args: the trainer's.
    """

    def __init__(self, publish: Publish, args: Any) -> None:
        self._publish, self._args = publish, args
        self._has_suggested = False

    def log(
        self, model: torch.nn.Module, optimizer: Any, step: int, saved_gib: float | None, saves: int
    ) -> Mapping[str, float]:
        """The `rldk/memory/*` keys that are known; suggestions are made at the first two saves, as they do not change.

        Args:
            model, optimizer: of the training.
            step: of the save.
            saved_gib: size of one save, where it is known.
            saves: how many have been looked at.
        """
        memory = footprint(model, optimizer)
        row = memory.as_row()
        if self._has_suggested:
            return row
        self._has_suggested = saved_gib is not None
        ideas = suggestions(
            memory,
            parameter_bytes=next((p.element_size() for p in model.parameters() if p.requires_grad), 4),
            gradient_checkpointing=bool(getattr(self._args, "gradient_checkpointing", False)),
            checkpoint_gib=saved_gib,
            checkpoints=saves,
            save_total_limit=getattr(self._args, "save_total_limit", None),
        )
        if ideas:
            rows = [[idea.change, idea.gib] for idea in ideas]
            self._publish("log_table", "rldk/memory/suggestions", ["change", "saves GiB"], rows, step)
        return row
