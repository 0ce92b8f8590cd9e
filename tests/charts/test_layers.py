"""Norms of layers over the steps."""

from __future__ import annotations

import math

import pytest

from rldk_tracking.charts.layers import LayersOverSteps


def test_the_mean_of_the_steps_of_a_column() -> None:
    over = LayersOverSteps("Gradients", rows=4, steps=2)
    for step in range(1, 5):
        over.add(step, {"embed": float(step), "head": 10.0})
    found = over.heatmap()
    assert found is not None
    assert found.rows == ("embed", "head")
    assert found.steps == (1, 3)
    assert found.values == ((1.5, 3.5), (10.0, 10.0))


def test_more_layers_than_rows_share_them() -> None:
    over = LayersOverSteps("Gradients", rows=3)
    over.add(1, {f"layers.{number}": float(number) for number in range(6)})
    found = over.heatmap()
    assert found is not None
    assert found.rows == ("layers.0 to layers.1", "layers.2 to layers.3", "layers.4 to layers.5")
    assert [row[0] for row in found.values] == pytest.approx([1.0, math.hypot(2, 3), math.hypot(4, 5)])


def test_a_layer_without_a_finite_norm_is_unknown_in_that_step() -> None:
    over = LayersOverSteps("Gradients")
    over.add(1, {"embed": 1.0, "head": 2.0})
    over.add(2, {"embed": 1.0})
    over.add(3, {"embed": 1.0, "head": math.nan})
    over.add(4, {"embed": math.inf})
    found = over.heatmap()
    assert found is not None
    assert found.steps == (1, 2, 3)
    assert found.values == ((1.0, 1.0, 1.0), (2.0, None, None))


def test_layers_that_come_later_get_a_row_as_long_as_there_is_room() -> None:
    over = LayersOverSteps("Gradients", rows=2)
    over.add(1, {"embed": 1.0})
    for step in range(2, 50):
        over.add(step, {"embed": 1.0, f"new.{step}": 2.0})
    found = over.heatmap()
    assert found is not None
    assert found.rows == ("embed", "new.2")


def test_nothing_yet() -> None:
    assert LayersOverSteps("Gradients").heatmap() is None
