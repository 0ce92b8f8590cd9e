"""The local variables of the running `PPOTrainer.train`, where TRL's PPO keeps all that it does."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch import Tensor

MARK = "padding_mask"
"""A variable by which the training loop is told from a `train` that only calls it."""


def train_variables(trainer: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of the running `train` of this trainer, by name; those that are there. Nothing of the frame is kept."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "train" and MARK in (*frame.f_code.co_varnames, *frame.f_code.co_cellvars):
            variables = frame.f_locals
            mine = variables.get("self") is trainer
            found = {name: variables[name] for name in names if isinstance(variables.get(name), Tensor)}
            if isinstance(variables, dict):
                # Before Python 3.13 this is a copy that lives as long as the frame and would keep the tensors alive.
                variables.clear()
            if mine:
                return found
        frame = frame.f_back
    return {}
