"""Trainings whose optimizer keeps its state in 8 bits, from the first step to the last checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from rldk_tracking import CheckpointMonitor, InMemoryTracker
from rldk_tracking.metrics.keys import lookup

GIB = float(1 << 30)


def train(folder: Path, optimizer: str, dtype: torch.dtype = torch.float32) -> tuple[InMemoryTracker, Trainer]:
    """Six steps of a small language model, saved at every other one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=256
    )
    model = LlamaForCausalLM(config).to(dtype)
    rows = torch.randint(0, 256, (48, 16), generator=torch.Generator().manual_seed(0))
    tracker = InMemoryTracker()
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder),
            optim=optimizer,
            max_steps=6,
            save_steps=2,
            logging_steps=1,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=[CheckpointMonitor(trackers=[tracker], level="full", close_timeout=60.0, strict=True)],
    )
    trainer.train()
    return tracker, trainer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_bitsandbytes(dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which has an 8-bit Adam for the CPU")
    tracker, trainer = train(tmp_path, "adamw_bnb_8bit", dtype)
    check(tracker)
    assert caplog.text.count("AdamW keeps its state in a form of its own") == 1
    states = trainer.optimizer.optimizer.state.values()  # type: ignore[union-attr]
    tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    held = sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())  # some share a table
    assert any(state["state1"].dtype == torch.uint8 for state in states)
    assert tracker.series["rldk/memory/optimizer_gib"][-1][1] * GIB == pytest.approx(held)


def check(tracker: InMemoryTracker) -> None:
    """Everything is there that needs no look into the optimizer's state, and nothing else."""
    series = tracker.series
    for key in ("rldk/grad/norm", "rldk/update/ratio/p50", "rldk/update/effective_lr", "rldk/weight/norm"):
        assert len(series[key]) == 6 and all(value > 0 for _, value in series[key]), key
    assert "rldk/update/adam_rms" not in series
    assert [key for key in series if lookup(key) is None] == []
    assert series["rldk/checkpoint/step"][-1][1] == 6
    assert series["rldk/checkpoint/drift"][-1][1] > 0
    assert series["rldk/checkpoint/incomplete"][-1][1] == 0
    assert [alert.rule for alert in tracker.alerts if alert.rule.startswith(("checkpoint", "nan"))] == []
