"""Small checkpoints as transformers writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]


def weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """A model of two layers; sizes are no multiples of a block."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (301, 64),
        "model.layers.0.q_proj.weight": (64, 64),
        "model.layers.0.norm.weight": (64,),
        "model.layers.1.q_proj.weight": (64, 64),
        "model.layers.1.norm.weight": (64,),
        "lm_head.weight": (301, 64),
    }
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.05
        made[name] = (values + 1.0 if "norm" in name else values).to(dtype)
    return made


def moved(before: Mapping[str, torch.Tensor], by: float, seed: int = 1) -> Weights:
    """The same weights, each tensor moved by this share of its norm."""
    generator = torch.Generator().manual_seed(seed)
    after = {}
    for name, values in before.items():
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        after[name] = (values.double() + by * noise * values.double().norm() / noise.norm()).to(values.dtype)
    return after


def write(folder: Path, content: Mapping[str, torch.Tensor], *, resumable: bool = True) -> Path:
    """One file of weights, a configuration, and what a resume needs."""
    folder.mkdir(parents=True)
    save_file(dict(content), folder / "model.safetensors")
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    if resumable:
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"step": 3}, folder / name)
        (folder / "trainer_state.json").write_text("{}")
    return folder


def write_sharded(folder: Path, content: Mapping[str, torch.Tensor], shards: int = 3) -> Path:
    """Several files and their index."""
    write(folder, content)
    (folder / "model.safetensors").unlink()
    names = list(content)
    files = {
        name: f"model-{i * shards // len(names) + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)
    }
    for file in set(files.values()):
        save_file({name: content[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class Saved:
    """The functions above, for tests, which cannot import this file."""

    weights = staticmethod(weights)
    moved = staticmethod(moved)
    write = staticmethod(write)
    write_sharded = staticmethod(write_sharded)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pair(self, by: float = 1e-3, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
        """Two consecutive checkpoints, the second of which a test may spoil."""
        before = weights(dtype=dtype)
        first = write(self.folder / "checkpoint-10", before)
        return first, write(self.folder / "checkpoint-20", moved(before, by))


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Writes checkpoints."""
    return Saved(tmp_path)
