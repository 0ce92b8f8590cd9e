"""The torch optimizer below the wrappers of accelerate and others, and its parameters.

Its ZeRO optimizers (Rajbhandari et al. 2020, arXiv:1910.02054) wrap a torch optimizer, give it one flat tensor for all
parameters of a group, and of that tensor only this rank's part. The hooks of the inner optimizer do fire, but what they
see has neither layers nor names, and a norm of it is that of a part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rldk_tracking.metrics.updates import has_direction, is_adam

PARTITIONS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
"""Attributes that hold a rank's part: ZeRO stages 1 and 2, stage 3, and the optimizer of bfloat16 weights."""

CANNOT = (
    "DeepSpeed has flattened and divided the parameters among the ranks: gradients, weights and updates cannot be read "
    "by layer. rldk/grad/norm is what the trainer logs; rldk/update/*, rldk/weight/* and rldk/grad/layer* are left out"
)


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


def what_is_missing(optimizer: torch.optim.Optimizer) -> list[str]:
    """What cannot be read from this optimizer's state, in sentences."""
    if not type(optimizer).__module__.startswith("torch.optim"):
        return [
            f"{type(optimizer).__name__} keeps its state in a form of its own: rldk/update/adam_rms cannot be read, "
            "and how far weights move is estimated from a sample of them"
        ]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    dtypes = {str(parameter.dtype) for parameter in parameters if not has_direction(optimizer, parameter)}
    if not is_adam(optimizer) or not dtypes:
        return []
    return [f"Adam's moments in {', '.join(sorted(dtypes))} lose small gradients: rldk/update/adam_rms cannot be read"]


def is_partitioned(optimizer: Any) -> bool:
    """Whether this, or an optimizer that it wraps, is one of DeepSpeed's that divide parameters among the ranks."""
    seen: set[int] = set()
    while optimizer is not None and id(optimizer) not in seen:
        seen.add(id(optimizer))
        if any(hasattr(optimizer, name) for name in PARTITIONS):
            return True
        optimizer = getattr(optimizer, "optimizer", None)
    return False
