"""Grouping of parameters into layers, the sums over them against plain loops in numpy, and which layers are shown."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.layers import (
    EXTRA,
    Layout,
    Summary,
    frozen_fraction,
    gradient_squares,
    not_finite,
    over_ranks,
    read_gradients,
    read_weights,
    squares,
    summarise,
    summarise_all,
    weight_squares,
)


def test_a_base_under_adapters_is_frozen_on_purpose() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2, bias=False))
    assert frozen_fraction(model) == 0.0
    model[0].requires_grad_(False)
    assert frozen_fraction(model) == 20 / 28
    model[1].peft_config = {}
    assert frozen_fraction(model) is None and frozen_fraction(torch.nn.ReLU()) is None
    assert frozen_fraction(torch.nn.ModuleDict({"lora_A": torch.nn.Linear(2, 2)})) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_squares_match_numpy(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = [(torch.randn(shape) * 3).to(dtype) for shape in [(7,), (300, 41), (2, 3, 4), (0, 5)]]
    want = [np.square(tensor.double().numpy()).sum() for tensor in tensors]
    np.testing.assert_allclose(squares(tensors).numpy(), want, rtol=1e-5)


def test_squares_of_16_bit_tensors_do_not_overflow() -> None:
    tensor = torch.full((1000,), 60_000.0, dtype=torch.float16)
    assert squares([tensor]).item() == pytest.approx(1000 * float(tensor[0]) ** 2, rel=1e-5)


def test_squares_take_none_sparse_transposed_and_complex() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.tensor([2.0, 3.0, 1.0]), (6,))
    transposed = torch.arange(6.0).reshape(2, 3).t()
    found = squares([None, sparse, transposed, torch.tensor([3 + 4j])])
    assert found.tolist() == pytest.approx([0.0, 26.0, 55.0, 25.0])


def test_squares_of_nothing() -> None:
    assert squares([None, None]).tolist() == [0.0, 0.0]
    assert squares([]).tolist() == []


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.floats(0, 1e6), min_size=5, max_size=5), min_size=1, max_size=4),
    broken=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=3),
)
def test_summary_matches_loops(values: list[list[float]], broken: set[tuple[int, int]]) -> None:
    steps = np.array(values)
    for step, parameter in broken:
        if step < len(steps):
            steps[step, parameter] = math.nan if parameter % 2 else math.inf
    names = ["a.0.w", "a.0.b", "a.1.w", "head.w", "a.1.b"]
    layout = Layout.of([(name, torch.zeros(2)) for name in names])
    assert layout.layers == ("a.0", "a.1", "head")
    summary = Summary.read(summarise(torch.tensor(steps, dtype=torch.float64), layout).tolist(), layout)
    assert summary is not None
    assert summary.steps == len(steps)
    assert summary.not_finite == max(int((~np.isfinite(row)).sum()) for row in steps)
    for layer, members in {"a.0": [0, 1], "a.1": [2, 4], "head": [3]}.items():
        norms = [math.sqrt(sum(row[i] for i in members)) for row in steps if all(np.isfinite(row[members]))]
        if norms:
            assert summary.layers[layer] == pytest.approx(np.mean(norms))
        else:
            assert layer not in summary.layers
    totals = [math.sqrt(row.sum()) for row in steps if np.isfinite(row).all()]
    assert summary.total == (pytest.approx(np.mean(totals)) if totals else None)


def test_nothing_measured_is_none() -> None:
    layout = Layout.of([("w", torch.zeros(1))])
    assert Summary.read([math.nan] * (EXTRA + 1), layout) is None


def test_several_quantities_at_once_are_each_as_alone() -> None:
    layout = Layout.of([(f"model.layers.{n // 2}.w{n}", torch.zeros(3)) for n in range(4)])
    steps = torch.rand(3, 5, 4, dtype=torch.float64)
    steps[1, 2, 0], steps[2, :, 3] = math.inf, math.nan
    alone = torch.stack([summarise(one, layout) for one in steps])
    assert torch.equal(summarise(steps, layout).nan_to_num(-1.0), alone.nan_to_num(-1.0))


def test_quantities_of_different_numbers_of_steps_are_each_as_alone() -> None:
    """Updates are measured less often than gradients."""
    layout = Layout.of([(f"model.layers.{n // 2}.w{n}", torch.zeros(3)) for n in range(4)])
    steps = {name: torch.rand(count, 4, dtype=torch.float64) for name, count in {"a": 5, "b": 2, "c": 5}.items()}
    found = summarise_all(steps, layout)
    assert set(found) == set(steps)
    for name, squares_of_steps in steps.items():
        assert torch.equal(found[name], summarise(squares_of_steps, layout)), name
    assert summarise_all({}, layout) == {}


def test_squares_of_shards_are_summed_over_ranks_in_one_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks hold the first parameter half and half, and the second whole."""
    shares = torch.tensor([1.0, 0.5], dtype=torch.float64)
    here = {
        "gradients": torch.tensor([[1.0, 6.0], [2.0, 8.0]]).double(),
        "updates": torch.tensor([[5.0, 4.0]]).double(),
    }
    there = torch.tensor([3.0, 3.0, 4.0, 4.0, 7.0, 2.0], dtype=torch.float64)  # times the shares already
    calls: list[int] = []

    def all_reduce(flat: torch.Tensor) -> None:
        calls.append(len(flat))
        flat += there

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    found = over_ranks(here, shares)
    assert calls == [6]
    assert found["gradients"].tolist() == [[4.0, 6.0], [6.0, 8.0]]
    assert found["updates"].tolist() == [[12.0, 4.0]]


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
