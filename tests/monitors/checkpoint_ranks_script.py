"""Trains on every rank that torchrun starts, and prints what rank 0 found in the checkpoints, and who read it."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from rldk_tracking import CheckpointMonitor, InMemoryTracker
from rldk_tracking.checkpoint.division import Division


class Model(torch.nn.Module):
    """Two layers that learn to add."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 32), torch.nn.Linear(32, 1)])

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layers[1](torch.tanh(self.layers[0](x))).squeeze(-1) - y).square().mean()}


def main(folder: str) -> None:
    shares: list[list[int]] = []
    collect = Division.collect

    def watched(self: Division, *args: Any) -> Any:
        parts = collect(self, *args)
        shares.append([rank for rank, part in parts.items() if part.tensors])
        return parts

    Division.collect = watched  # type: ignore[method-assign]
    Division.applies = lambda self, path: True  # type: ignore[method-assign]
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    tracker = InMemoryTracker()
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=120.0)
    arguments = TrainingArguments(
        folder,
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    data = [{"x": row, "y": row.sum()} for row in rows]
    trainer = Trainer(Model(), arguments, train_dataset=data, callbacks=[monitor])
    trainer.train()
    if trainer.args.process_index == 0:
        norm = tracker.series["rldk/checkpoint/norm"][-1][1]
        print("found", json.dumps({"steps": sorted(monitor.history), "norm": norm, "shares": shares}))


if __name__ == "__main__":
    main(sys.argv[1])
