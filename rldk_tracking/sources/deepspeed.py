"""What DeepSpeed leaves to be seen of an optimizer.

Its ZeRO optimizers (Rajbhandari et al. 2020, arXiv:1910.02054) wrap a torch optimizer, give it one flat tensor for all
parameters of a group, and of that tensor only this rank's part. The hooks of the inner optimizer do fire, but what they
see has neither layers nor names, and a norm of it is that of a part.
"""

from __future__ import annotations

from typing import Any

PARTITIONS = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat", "fp32_groups_flat_partition")
"""Attributes that hold a rank's part: ZeRO stages 1 and 2, stage 3, and the optimizer of bfloat16 weights."""

CANNOT = (
    "DeepSpeed has flattened and divided the parameters among the ranks: gradients, weights and updates cannot be read "
    "by layer. rldk/grad/norm is what the trainer logs; rldk/update/*, rldk/weight/* and rldk/grad/layer* are left out"
)


def is_partitioned(optimizer: Any) -> bool:
    """Whether this, or an optimizer that it wraps, is one of DeepSpeed's that divide parameters among the ranks."""
    seen: set[int] = set()
    while optimizer is not None and id(optimizer) not in seen:
        seen.add(id(optimizer))
        if any(hasattr(optimizer, name) for name in PARTITIONS):
            return True
        optimizer = getattr(optimizer, "optimizer", None)
    return False
