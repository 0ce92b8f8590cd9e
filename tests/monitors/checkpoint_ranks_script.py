"""Trains on every rank that torchrun starts; each rank writes down which checkpoints it scanned and what it logged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from rldk_tracking import CheckpointMonitor, InMemoryTracker
from rldk_tracking.checkpoint.background import Request, ScanProcess


class Model(torch.nn.Module):
    """Two layers that learn to add."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 32), torch.nn.Linear(32, 1)])

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layers[1](torch.tanh(self.layers[0](x))).squeeze(-1) - y).square().mean()}


def main(folder: Path) -> None:
    scanned: list[str] = []
    ask = ScanProcess.ask

    def counted(self: ScanProcess, request: Request) -> None:
        scanned.append(request.path.name)
        ask(self, request)

    ScanProcess.ask = counted  # type: ignore[method-assign]
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    tracker = InMemoryTracker()
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=120.0)
    arguments = TrainingArguments(
        str(folder),
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
    norms = [value for _, value in tracker.series.get("rldk/checkpoint/norm", [])]
    found = {"scanned": scanned, "history": sorted(monitor.history), "norms": norms}
    (folder / f"rank-{trainer.args.process_index}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
