"""The gradient noise scale against the covariance that the gradients were drawn with."""

from __future__ import annotations

import pytest
import torch

from rldk_tracking.metrics.noise_scale import NoiseScale, estimates

UNKNOWN = torch.tensor(-1.0, dtype=torch.float64)


def partial_squares(trials: int, passes: int, samples: int, ranks: int, seed: int = 0) -> torch.Tensor:
    """(trials, passes) |A_k|^2 of this rank, the last one of the mean over ranks; |G|^2 is 10 and tr(S) 360."""
    generator = torch.Generator().manual_seed(seed)
    shape = (trials, ranks, passes, samples, 40)
    drawn = 0.5 + 3.0 * torch.randn(shape, generator=generator, dtype=torch.float64)
    sums = drawn.mean(dim=3).cumsum(dim=2)
    return torch.cat([sums[:, 0, :-1], sums[:, :, -1].mean(dim=1, keepdim=True)], dim=1).square().sum(dim=2)


@pytest.mark.parametrize(("passes", "samples", "ranks"), [(2, 2, 1), (4, 2, 1), (8, 1, 1), (3, 2, 2), (4, 1, 4)])
def test_estimates_are_unbiased(passes: int, samples: int, ranks: int) -> None:
    squares = partial_squares(4000, passes, samples, ranks)
    pairs = torch.tensor([[float(x) for x in estimates(one, samples, ranks)] for one in squares])
    error = pairs.std(dim=0) / len(pairs) ** 0.5
    assert abs(pairs[:, 0].mean() - 360.0) < 3.5 * error[0]
    assert abs(pairs[:, 1].mean() - 10.0) < 3.5 * error[1]


@pytest.mark.parametrize(("passes", "gain"), [(4, 0.97), (8, 0.94), (32, 0.92)])
def test_every_micro_batch_counts(passes: int, gain: float) -> None:
    """McCandlish's pair, of the first micro-batch and the whole, is further off."""
    squares = partial_squares(2000, passes, 2, 1)
    ours = torch.tensor([[float(x) for x in estimates(one, 2)] for one in squares]).std(dim=0)
    small, big = squares[:, 0], squares[:, -1] / passes**2
    trace = (small - big) / (1 / 2 - 1 / (2 * passes))
    signal = (2 * passes * big - 2 * small) / (2 * passes - 2)
    assert ours[0] < gain * trace.std() and ours[1] < signal.std()


def test_two_micro_batches_are_mccandlishs_pair() -> None:
    trace, signal = estimates(torch.tensor([36.0, 120.0]), 2)
    assert trace.item() == pytest.approx((36.0 - 30.0) / (1 / 2 - 1 / 4))
    assert signal.item() == pytest.approx((4 * 30.0 - 2 * 36.0) / (4 - 2))


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


@pytest.mark.parametrize(("squares", "samples"), [([], 2.0), ([1.0], 2.0), ([1.0, 2.0], 0.0)])
def test_two_micro_batches_are_needed(squares: list[float], samples: float) -> None:
    with pytest.raises(ValueError, match="Two micro-batches"):
        estimates(torch.tensor(squares), samples)
