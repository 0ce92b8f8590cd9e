"""Gradients, weights, and the change of the weights against the difference before and after, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rldk_tracking.metrics import updates
from rldk_tracking.metrics.layers import Layout, summarise
from rldk_tracking.metrics.updates import change_square, learning_rate

ADAM = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1}),
    (torch.optim.Adam, {"amsgrad": True, "betas": (0.5, 0.9)}),
    (torch.optim.AdamW, {"weight_decay": 0.3, "eps": 1e-3}),
    (torch.optim.AdamW, {"weight_decay": 0.3, "maximize": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1, "fused": True}),
    (torch.optim.AdamW, {"weight_decay": 0.1, "foreach": True, "capturable": False}),
    (torch.optim.AdamW, {"weight_decay": 0.0, "lr": torch.tensor(0.01)}),
]


@pytest.mark.parametrize(("kind", "options"), ADAM)
@pytest.mark.parametrize("block", [updates.CACHED_BLOCK, 64])
def test_adam_squares(kind: Any, options: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "CACHED_BLOCK", block)
    torch.manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(31, 17, dtype=torch.float64))
    optimizer = kind([weights], **{"lr": 0.01, **options})
    assert updates.is_exact(optimizer, weights)
    for _ in range(4):
        weights.grad = torch.randn_like(weights)
        before = weights.detach().clone()
        optimizer.step()
        group = optimizer.param_groups[0]
        square, adam = updates.adam_squares(weights, optimizer.state[weights], group, kind is torch.optim.AdamW)
        assert square.item() == pytest.approx((weights.detach() - before).square().sum().item(), rel=1e-6)
        if "weight_decay" not in options and kind is torch.optim.Adam:
            assert square.item() == pytest.approx(adam.item() * 0.01**2, rel=1e-6)


def test_what_is_exact() -> None:
    single, half = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    assert not updates.is_exact(torch.optim.AdamW([half]), half)
    assert updates.has_direction(torch.optim.AdamW([half]), half)
    assert not updates.has_direction(torch.optim.AdamW([half]), torch.ones(2, dtype=torch.float16))
    assert not updates.has_direction(torch.optim.SGD([single]), single)
    assert not updates.is_exact(torch.optim.SGD([single]), single)
    assert not updates.is_exact(torch.optim.Adamax([single]), single)


@pytest.mark.parametrize("shape", [(3,), (100, 100), (1024, 64), (700, 301)])
def test_snapshot(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    tensor = torch.randn(shape)
    snapshot = updates.Snapshot([tensor])
    change = torch.randn(shape) * 0.01
    tensor += change
    exact = tensor.numel() <= updates.SAMPLE
    found, want = snapshot.squares([tensor])[0].item(), change.double().square().sum().item()
    assert found == pytest.approx(want, rel=1e-3 if exact else 0.05)


def test_snapshot_runs_over_all_columns() -> None:
    columns = 512
    tensor = torch.zeros(1024, columns)
    snapshot = updates.Snapshot([tensor])
    for column in range(columns):
        tensor.zero_()
        tensor[:, column] = 1.0
        assert snapshot.squares([tensor])[0].item() > 0


def test_steps_that_rounding_swallows_are_seen() -> None:
    weights = torch.nn.Parameter(torch.ones(50, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weights], lr=1e-6, weight_decay=0.0)
    weights.grad = torch.ones_like(weights)
    snapshot = updates.Snapshot([weights])
    optimizer.step()
    assert snapshot.squares([weights])[0].item() == 0.0


def test_keys() -> None:
    layout = Layout.of([("l.0.w", torch.zeros(4)), ("l.1.w", torch.zeros(4)), ("l.2.w", torch.zeros(1))])

    def line(*values: float) -> list[float]:
        return summarise(torch.tensor([values], dtype=torch.float64), layout).tolist()

    absent = dict.fromkeys(("updates", "adam", "adapters"), [math.nan] * layout.width)
    weights = {"weights": line(16.0, 1.0, 0.0)}
    parts = {**absent, **weights, "updates": line(4.0, 0.0, 1.0), "adam": line(9.0, 0.0, 0.0)}
    found = updates.read_updates(parts, layout)
    assert found["rldk/update/frozen_layers"] == 1
    assert found["rldk/update/effective_lr"] == pytest.approx(math.sqrt(5 / 9))
    assert found["rldk/update/adam_rms"] == pytest.approx(1.0)
    assert found["rldk/update/ratio/p50"] == pytest.approx(0.25)  # of 0.5 and 0; the layer without weights has none
    assert updates.read_updates(absent | weights, layout) == {}
    adapted = updates.read_updates({**parts, "adapters": line(0.09, 0.0, 0.0)}, layout)
    assert adapted["rldk/update/ratio/p50"] == pytest.approx(0.15), "of LoRA's 0.3 and 0"


@pytest.mark.parametrize(("kind", "options"), ADAM)
@pytest.mark.parametrize("small", [updates.SMALL, 20])
def test_a_group_has_the_squares_of_its_tensors(
    kind: Any, options: dict[str, Any], small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small tensors are measured together, large ones and those that have made other steps apart."""
    monkeypatch.setattr(updates, "SMALL", small)
    torch.manual_seed(0)
    sizes = [(5, 4), (7,), (3, 3), (40, 2)]
    weights = [torch.nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in sizes]
    optimizer = kind(weights, **{"lr": 0.01, **options})
    for step in range(3):
        for number, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight) if number != 1 or step else None
        before = [weight.detach().clone() for weight in weights]
        optimizer.step()
        group, decoupled = optimizer.param_groups[0], kind is torch.optim.AdamW
        present = [weight for weight in weights if weight.grad is not None]
        states = [optimizer.state[weight] for weight in present]
        moved, adam = updates.group_squares(present, states, group, decoupled)
        wanted = [updates.adam_squares(w, s, group, decoupled) for w, s in zip(present, states, strict=True)]
        changes = [
            (w.detach() - old).square().sum() for w, old in zip(weights, before, strict=True) if w.grad is not None
        ]
        assert [float(square) for square in moved] == pytest.approx([float(change) for change in changes], rel=1e-6)
        assert [float(square) for square in moved] == pytest.approx([float(square) for square, _ in wanted], rel=1e-6)
        assert [float(square) for square in adam] == pytest.approx([float(square) for _, square in wanted], rel=1e-6)


def test_a_group_without_gradients() -> None:
    assert updates.group_squares([], [], {"betas": (0.9, 0.99), "lr": 1.0, "eps": 0.0, "weight_decay": 0.0}, True) == (
        [],
        [],
    )


CPU = torch.device("cpu")


def sgd(*rates: float | torch.Tensor) -> torch.optim.SGD:
    """One group of two parameters for each rate."""
    groups = [{"params": [nn.Parameter(torch.ones(2)) for _ in range(2)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=9.0)


def test_the_learning_rate_is_the_largest_of_the_groups_that_hold_something() -> None:
    optimizer = sgd(0.1, 0.3, 0.2)
    optimizer.param_groups.append({"params": [], "lr": 7.0})
    rate = learning_rate(optimizer, CPU)
    assert rate.dtype == torch.float64 and float(rate) == 0.3


def test_a_learning_rate_may_be_a_tensor() -> None:
    assert float(learning_rate(sgd(torch.tensor(0.25), 0.125), CPU)) == 0.25


@pytest.mark.parametrize("groups", [[], [{"params": [torch.ones(1)]}]])
def test_without_one_it_is_no_number(groups: list[dict[str, object]]) -> None:
    optimizer = sgd(0.1)
    optimizer.param_groups = groups  # type: ignore[assignment]
    assert math.isnan(float(learning_rate(optimizer, CPU)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1.0, 1e-6]))
def test_the_product_that_is_never_formed(seed: int, rank: int, rows: int, columns: int, size: float) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, columns, generator=g), torch.randn(rows, rank, generator=g)
    new = (a + size * torch.randn(a.shape, generator=g), b + size * torch.randn(b.shape, generator=g))
    formed = new[1].double() @ new[0].double() - b.double() @ a.double()
    assert change_square((a, b), new).item() == pytest.approx(formed.square().sum().item(), rel=1e-6)


def test_the_same_weights_by_other_matrices_are_no_change() -> None:
    a, b = torch.randn(2, 7), torch.randn(5, 2)
    assert change_square((a, b), (2 * a, b / 2)).item() < 1e-20 * b.square().sum().item() * a.square().sum().item()
    assert change_square((a, b), (a, b)).item() == 0.0
