"""What a LoRA adapter adds to the weights: the size of scale * B A, without ever forming it.

|B A|_F^2 = tr((B^T B) (A A^T)), two small matrices of the adapter's rank (Hu et al. 2022, arXiv:2106.09685).
"""

from __future__ import annotations

import math

import numpy as np

from rldk_tracking.checkpoint.formats import Array, decode
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.statistics import Source, Workspace, measure

PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def change_norms(adapter: Checkpoint) -> dict[str, float]:
    """Module to |scale * B A|_F, for the modules whose two matrices are there. Empty for other kinds of adapters."""
    found = {}
    for name in adapter.entries:
        module = name.removesuffix(DOWN)
        if module == name or module + UP not in adapter.entries:
            continue
        down, up = _matrix(adapter, name), _matrix(adapter, module + UP)
        if down is None or up is None or up.shape[1] != down.shape[0]:
            continue
        square = float(np.sum((up.T @ up) * (down @ down.T)))
        found[module.removeprefix(PREFIX)] = _scale(adapter, len(down)) * math.sqrt(max(0.0, square))
    return {module: norm for module, norm in found.items() if math.isfinite(norm)}


def change_ratio(norms: dict[str, float], base: Checkpoint) -> float | None:
    """Size of all changes over the size of the weights that they are added to; None where the base lacks one."""
    workspace, square = Workspace(), 0.0
    for module in norms:
        entry = base.entries.get(f"{module}.weight")
        if entry is None or not base.has_numbers(entry.name):
            return None
        source = Source(base.blocks(entry.name, workspace.block), entry.dtype)
        square += measure(source, [], entry.numel, workspace).norm ** 2
    return math.sqrt(sum(norm**2 for norm in norms.values()) / square) if square > 0 else None


def _scale(adapter: Checkpoint, rank: int) -> float:
    alpha = adapter.config.get("lora_alpha", rank)
    if not isinstance(alpha, (int, float)):
        return 1.0
    return float(alpha) / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)


def _matrix(checkpoint: Checkpoint, name: str) -> Array | None:
    """A whole matrix in float64: those of an adapter are small."""
    entry = checkpoint.entries[name]
    if len(entry.shape) != 2 or not checkpoint.has_numbers(name):
        return None
    blocks = list(checkpoint.blocks(name, max(1, entry.numel)))
    if not blocks:
        return None
    return decode(blocks[0], entry.dtype, np.empty(entry.numel, np.float32)).reshape(entry.shape).astype(np.float64)
