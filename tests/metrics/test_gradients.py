"""Gradient statistics against numpy on a small network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rldk_tracking.metrics import gradients
from rldk_tracking.metrics.layers import Layout, summarise


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3), torch.nn.Linear(3, 2))


def keys(model: torch.nn.Module) -> dict[str, float]:
    layout = Layout.of(model.named_parameters())
    squares = gradients.measure(list(model.parameters()))
    return gradients.read(summarise(squares[None], layout).tolist(), layout)


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
    assert gradients.read([math.nan] * layout.width, layout) == {}
