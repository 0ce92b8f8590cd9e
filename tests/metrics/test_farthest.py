from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rldk_tracking.keys import lookup
from rldk_tracking.metrics.farthest import FIRST, SETTLED, SHOWN, FarthestLayers, series


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
