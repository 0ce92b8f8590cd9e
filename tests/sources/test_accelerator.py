"""The watch around a real accelerator, and beside others that wrap it too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from rldk_tracking.sources.accelerator import AcceleratorWatch, scale_of


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True, gradient_accumulation_steps=3)


def test_it_sees_gradients_before_they_are_clipped(accelerator: Accelerator) -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    seen: list[tuple[float | None, Any, float]] = []
    watch = AcceleratorWatch(
        accelerator, lambda limit, scale: seen.append((limit, scale, float(parameter.grad.norm()))), lambda: None
    )
    assert float(accelerator.clip_grad_norm_(iter([parameter]), 2.0)) == pytest.approx(6.0)
    assert float(accelerator.clip_grad_norm_([parameter], math.inf)) == pytest.approx(2.0, rel=1e-4)
    assert seen == [(2.0, None, pytest.approx(6.0)), (None, None, pytest.approx(2.0, rel=1e-4))]
    watch.detach()
    accelerator.clip_grad_norm_([parameter], 1.0)
    assert len(seen) == 2


def test_it_counts_the_passes_within_an_accumulation(accelerator: Accelerator) -> None:
    model = accelerator.prepare(torch.nn.Linear(2, 1))
    calls: list[int] = []
    watch = AcceleratorWatch(accelerator, lambda limit, scale: None, lambda: calls.append(1))
    for _ in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1, 2)).sum())
    assert len(calls) == 4  # of two accumulations of three passes
    watch.detach()


def test_another_wrapper_keeps_working(accelerator: Accelerator) -> None:
    mine: list[int] = []
    watch = AcceleratorWatch(accelerator, lambda limit, scale: mine.append(1), lambda: None)
    below = accelerator.clip_grad_norm_
    others: list[int] = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        others.append(1)
        return below(*args, **kwargs)

    accelerator.clip_grad_norm_ = wrapper
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    accelerator.clip_grad_norm_([parameter], 1.0)
    watch.detach()
    accelerator.clip_grad_norm_([parameter], 1.0)
    assert (len(mine), len(others)) == (1, 2)
    assert "backward" not in vars(accelerator)


def test_the_scale_of_float16() -> None:
    class Scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    Scaled.scaler.scale(torch.ones(1))
    assert float(scale_of(Scaled)) == 8.0  # type: ignore[arg-type]
    assert scale_of(object()) is None
