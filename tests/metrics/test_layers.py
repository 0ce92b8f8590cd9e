"""Grouping of parameters into layers, the sums over them against plain loops in numpy, and which layers are shown."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.keys import lookup
from rldk_tracking.metrics.layers import (
    EXTRA,
    FIRST,
    SETTLED,
    SHOWN,
    FarthestLayers,
    Layout,
    Summary,
    over_ranks,
    series,
    squares,
    summarise,
    summarise_all,
)


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


def noisy(generator: np.random.Generator, layers: int = 40, **changed: float) -> dict[str, float]:
    """Norms that scatter by a factor of e around 1, times what the test says."""
    values = {f"layers.{n}": float(np.exp(generator.normal(0.0, 0.5))) for n in range(layers)}
    return values | {name.replace("_", "."): values[name.replace("_", ".")] * by for name, by in changed.items()}


def test_the_farthest_are_shown_and_the_cap_holds() -> None:
    generator, farthest = np.random.default_rng(0), FarthestLayers()
    seen: list[set[str]] = []
    for _ in range(500):
        shown = farthest.take(noisy(generator, layers_3=1e3, layers_30=1e-3))
        seen.append(set(shown))
    assert all(not shown for shown in seen[: SETTLED - 1])
    assert {"layers.3", "layers.30"} <= seen[SETTLED]
    assert all(before <= after for before, after in itertools.pairwise(seen))  # nothing that is shown ends
    assert len(seen[-1]) <= SHOWN


def test_noise_alone_chooses_once() -> None:
    generator, farthest = np.random.default_rng(1), FarthestLayers()
    shown = [set(farthest.take(noisy(generator))) for _ in range(300)]
    assert len(shown[SETTLED]) == FIRST
    assert len(shown[-1]) <= FIRST + 1


@pytest.mark.parametrize("factor", [1e4, 1e-4, 0.0])
def test_a_layer_that_goes_astray_later_is_shown(factor: float) -> None:
    generator, farthest = np.random.default_rng(2), FarthestLayers()
    for _ in range(50):
        farthest.take(noisy(generator))
    before = set(farthest.shown)
    astray = next(f"layers_{n}" for n in range(40) if f"layers.{n}" not in before)
    for _ in range(5):
        farthest.take(noisy(generator, **{astray: factor}))
    assert set(farthest.shown) >= {*before, astray.replace("_", ".")}


def test_few_layers_are_all_shown_and_what_is_no_number_is_not() -> None:
    farthest = FarthestLayers()
    for _ in range(SETTLED):
        found = farthest.take({"a": 1.0, "b": math.nan, "c": 2.0, "d": math.inf})
    assert found == {"a": 1.0, "c": 2.0}
    assert farthest.take({"a": 0.0, "c": 0.0}) == {"a": 0.0, "c": 0.0}
    assert FarthestLayers().take({}) == {}


@pytest.mark.parametrize("prefix", ["rldk/grad/layer", "rldk/update/layer_ratio"])
def test_the_names_are_documented_and_without_dots(prefix: str) -> None:
    ((name, value),) = series(prefix, {"model.layers.3": 2.0}).items()
    assert (name, value) == (f"{prefix}/model_layers_3", 2.0)
    assert lookup(name) is not None and lookup(name).name == f"{prefix}/<layer>"  # type: ignore[union-attr]
