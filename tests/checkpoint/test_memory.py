"""Bytes of real models and optimizers."""

from __future__ import annotations

import pytest
import torch

from rldk_tracking.checkpoint.memory import GIB, Footprint, footprint, suggestions


def test_footprint_of_adamw_with_a_frozen_layer_and_a_tied_head() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.BatchNorm1d(50), torch.nn.Linear(50, 100))
    model[2].weight.requires_grad_(False)
    model.again = model[0]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    assert footprint(model, optimizer).optimizer is None  # unknown before the first step, not none
    model(torch.randn(4, 100)).sum().backward()
    optimizer.step()
    found = footprint(model, optimizer)
    trained = 4 * (100 * 50 + 50 + 100 + 100)
    assert found.trained == found.gradients == trained
    assert found.parameters == trained + 4 * 50 * 100 + 4 * 100 + 8
    assert found.optimizer == 2 * trained + 4 * 5  # the moments, and each tensor's step
    assert found.activations is None
    assert set(found.as_row()) == {f"rldk/memory/{name}_gib" for name in ("parameters", "gradients", "optimizer")}


def test_suggestions_state_what_they_save() -> None:
    count = 1_000_000_000
    found = Footprint(4 * count, 4 * count, 4 * count, 8 * count, peak=26 * count)
    ideas = {idea.change.split(" (")[0]: idea.gib for idea in suggestions(found)}
    assert found.activations == 10 * count
    assert ideas["An 8-bit optimizer"] == pytest.approx(6 * count / GIB)
    assert ideas["Gradient checkpointing"] == pytest.approx(5 * count / GIB)
    assert ideas["Weights in bfloat16"] == pytest.approx(8 * count / GIB)
    assert ideas["LoRA in place of training all weights"] == pytest.approx(0.99 * 12 * count / GIB)
    assert list(ideas.values()) == sorted(ideas.values(), reverse=True)


def test_suggestions_that_do_not_apply_are_not_made() -> None:
    count = 1_000_000_000
    found = Footprint(2 * count, count // 100, count // 100, count // 50, peak=3 * count)
    assert suggestions(found, parameter_bytes=2, gradient_checkpointing=True) == []
    assert suggestions(Footprint(1000, 1000, 1000, 2000)) == []


def test_the_disk() -> None:
    found = Footprint(1000, 1000, 1000, 2000)
    idea = suggestions(found, checkpoint_gib=3.0, checkpoints=7)[0]
    assert idea.disk and idea.gib == pytest.approx(15.0) and "on disk" in str(idea)
    assert suggestions(found, checkpoint_gib=3.0, checkpoints=7, save_total_limit=3) == []
