"""What the training holds in memory, told at each save, and what would make it less, told once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rldk_tracking.checkpoint.memory import footprint, suggestions
from rldk_tracking.run import Run


class MemoryLog:
    """Tells a run about its memory.

    Args:
        run: that is told.
        args: the trainer's.
    """

    def __init__(self, run: Run, args: Any) -> None:
        self._run, self._args = run, args
        self._told = False

    def tell(
        self, model: torch.nn.Module, optimizer: Any, step: int, saved_gib: float | None, saves: int
    ) -> Mapping[str, float]:
        """The `rldk/memory/*` keys that are known; suggestions are made at the first two saves, as they do not change.

        Args:
            model, optimizer: of the training.
            step: of the save.
            saved_gib: size of one save, where it is known.
            saves: how many have been looked at.
        """
        held = footprint(model, optimizer)
        row = held.as_row()
        self._run.add(row)
        if self._told:
            return row
        self._told = saved_gib is not None
        ideas = suggestions(
            held,
            parameter_bytes=next((p.element_size() for p in model.parameters() if p.requires_grad), 4),
            gradient_checkpointing=bool(getattr(self._args, "gradient_checkpointing", False)),
            checkpoint_gib=saved_gib,
            checkpoints=saves,
            save_total_limit=getattr(self._args, "save_total_limit", None),
        )
        if ideas:
            rows = [[idea.change, idea.gib] for idea in ideas]
            self._run.table("rldk/memory/suggestions", ["change", "saves GiB"], rows, step)
        return row
