"""The gradient noise scale against the covariance that the gradients were drawn with."""

from __future__ import annotations

import pytest
import torch

from rldk_tracking.metrics.noise_scale import NoiseScale, estimates

UNKNOWN = torch.tensor(-1.0, dtype=torch.float64)


def test_estimates_are_unbiased() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, spread = torch.full((40,), 0.5, dtype=torch.float64), 3.0
    small, big, trials = 2, 16, 4000
    samples = mean + spread * torch.randn(trials, big, 40, generator=generator, dtype=torch.float64)
    small_squares = samples[:, :small].mean(1).square().sum(1)
    big_squares = samples.mean(1).square().sum(1)
    trace, signal = estimates(small_squares, big_squares, small, big)
    assert trace.mean().item() == pytest.approx(40 * spread**2, rel=0.03)
    assert signal.mean().item() == pytest.approx(10.0, rel=0.03)


def test_running_means_find_the_ratio() -> None:
    generator = torch.Generator().manual_seed(1)
    meter = NoiseScale(samples=2)
    mean = torch.full((50,), 0.3, dtype=torch.float64)
    for _ in range(400):
        passes = [(mean + torch.randn(2, 50, generator=generator, dtype=torch.float64)).mean(0) / 8 for _ in range(8)]
        total = torch.zeros_like(mean)
        for part in passes[:-1]:
            total = total + part
            meter.micro(lambda total=total: total.square().sum())
        meter.step((total + passes[-1]).square().sum())
    assert meter.value(UNKNOWN).item() == pytest.approx(50 / (50 * 0.09), rel=0.35)


def test_unknown_without_accumulation_and_after_nan() -> None:
    meter = NoiseScale(samples=2)
    meter.step(torch.tensor(3.0, dtype=torch.float64))
    assert meter.value(UNKNOWN) is UNKNOWN
    meter.micro(lambda: torch.tensor(float("nan"), dtype=torch.float64))
    meter.step(torch.tensor(3.0, dtype=torch.float64))
    assert meter.value(UNKNOWN) == UNKNOWN
    meter.micro(lambda: torch.tensor(9.0, dtype=torch.float64))
    meter.step(torch.tensor(30.0, dtype=torch.float64))
    assert meter.value(UNKNOWN).item() == pytest.approx(1.0)  # |G|^2 of 36 at 2 samples and of 30 at 4


def test_batch_sizes_must_differ() -> None:
    with pytest.raises(ValueError, match="0 < small < big"):
        estimates(UNKNOWN, UNKNOWN, 4, 4)
