"""The torch optimizer below the wrappers of accelerate and others, and its parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def unwrap(optimizer: Any) -> torch.optim.Optimizer | None:
    """The innermost torch optimizer of accelerate's and others' wrappers, None where there is none."""
    found = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
    inner = getattr(optimizer, "optimizer", None)
    return found if inner is None else unwrap(inner) or found


def named_parameters(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module | None
) -> tuple[list[tuple[str, Tensor]], int]:
    """The optimizer's parameters in its order, and how many of them the model does not name: those are `group0.3`."""
    names = {} if model is None else {parameter: name for name, parameter in model.named_parameters()}
    found = [
        (names.get(parameter) or f"group{number}.{position}", parameter)
        for number, group in enumerate(optimizer.param_groups)
        for position, parameter in enumerate(group["params"])
    ]
    return found, sum(parameter not in names for _, parameter in found)
