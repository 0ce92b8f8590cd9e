"""The ranks' shares of a scan, brought together as JSON over gloo."""

from __future__ import annotations

import json

import torch
import torch.distributed as dist

from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.record import from_dict, merge, to_dict


def gather(found: Scan) -> Scan:
    """The whole scan, on every rank. Opens the process group where there is none, from torchrun's environment."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    raw = torch.frombuffer(bytearray(json.dumps(to_dict(found)).encode()), dtype=torch.uint8)
    size = torch.tensor([len(raw)])
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    longest = max(int(one) for one in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(raw)] = raw
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    texts = [bytes(part[: int(one)].numpy()).decode() for part, one in zip(parts, sizes, strict=True)]
    return merge([from_dict(json.loads(text)) for text in texts])


def leave() -> None:
    """End the process group, all ranks together: gloo aborts a rank whose peer goes first."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
