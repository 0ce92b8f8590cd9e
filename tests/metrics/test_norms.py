"""Norms of gradients and weights, and what is not finite in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rldk_tracking.metrics.layers import Layout, summarise
from rldk_tracking.metrics.norms import gradient_squares, not_finite, read_gradients, read_weights, weight_squares


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3), torch.nn.Linear(3, 2))


def keys(model: torch.nn.Module) -> dict[str, float]:
    layout = Layout.of(model.named_parameters())
    squares = gradient_squares(list(model.parameters()))
    return read_gradients(summarise(squares[None], layout).tolist(), layout)


def test_norms() -> None:
    model = network()
    model(torch.randn(4, 5)).square().sum().backward()
    found = keys(model)
    by_layer = {}
    for name, parameter in model.named_parameters():
        by_layer.setdefault(name.split(".")[0], []).append(np.square(parameter.grad.double().numpy()).sum())
    norms = [math.sqrt(sum(parts)) for parts in by_layer.values()]
    assert found["rldk/grad/norm"] == pytest.approx(math.sqrt(sum(norm**2 for norm in norms)), rel=1e-5)
    assert found["rldk/grad/layer_norm/p50"] == pytest.approx(np.quantile(norms, 0.5), rel=1e-5)
    assert found["rldk/grad/layer_norm/max"] == pytest.approx(max(norms), rel=1e-5)
    assert found["rldk/grad/layers_without"] == 0
    assert found["rldk/nan/gradients"] == 0


def test_layers_without_gradient() -> None:
    model = network()
    model[0](torch.randn(4, 5)).sum().backward()
    model[2].weight.grad = torch.zeros_like(model[2].weight)
    assert keys(model)["rldk/grad/layers_without"] == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_element_that_is_no_number(value: float) -> None:
    model = network()
    model(torch.randn(4, 5)).sum().backward()
    model[2].weight.grad[1, 2] = value
    found = keys(model)
    assert found["rldk/nan/gradients"] == 1
    assert "rldk/grad/norm" not in found
    assert all(math.isfinite(number) for number in found.values())


def test_absent_where_nothing_was_measured() -> None:
    layout = Layout.of(network().named_parameters())
    assert read_gradients([math.nan] * layout.width, layout) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Linear(8, 7)).to(dtype)
    layout = Layout.of(model.named_parameters())
    found = read_weights(summarise(weight_squares(list(model.parameters()))[None], layout).tolist(), layout)
    want = math.sqrt(sum(np.square(p.detach().double().numpy()).sum() for p in model.parameters()))
    assert found["rldk/weight/norm"] == pytest.approx(want, rel=1e-5)
    assert found["rldk/nan/weights"] == 0


def test_tensors_that_are_no_numbers_are_counted() -> None:
    good, packed = torch.ones(3), torch.ones(4, dtype=torch.int8)
    bad, worse = torch.tensor([1.0, math.nan]), torch.tensor([math.inf], dtype=torch.bfloat16)
    assert int(not_finite([good, bad, packed, worse])) == 2
    assert int(not_finite([good, packed])) == 0
