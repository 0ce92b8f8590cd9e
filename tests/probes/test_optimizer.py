"""Gradients, updates and changes of the rate of a training by hand, and what is shown of them."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rldk_tracking.charts.spec import GRADIENTS
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import Table
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.optimizer import FIRST, HEATMAP_SAVES, SETTLED, SHOWN, FarthestLayers, OptimizerProbe, series
from rldk_tracking.ranks import Merged
from tests.probes.conftest import Published

Make = Callable[[], SimpleNamespace]


def begun(training: SimpleNamespace, publish: Any = None, level: Any = "standard", **more: Any) -> OptimizerProbe:
    probe = OptimizerProbe(level)
    shown = {} if publish is None else {"publish": publish}
    probe.begin(Training(model=training.model, optimizer=training.optimizer, shield=Shield(True), **shown, **more))
    return probe


def derived(
    probe: OptimizerProbe, step: int, row: Mapping[str, float] | None = None, ranks: int = 1
) -> dict[str, float]:
    """Collect a step, as if each of so many ranks had seen the same, and derive."""
    data = StepData(step)
    probe.collect(data)
    vectors = [] if data.vector is None else [data.vector.tolist()] * ranks
    return dict(probe.derive(step, row or {}, Merged(Table(), Table(), {}, vectors)))


def test_what_does_not_train_is_said_once(small_training: Make) -> None:
    training = small_training()
    training.model.bias.requires_grad_(False)
    training.step()
    probe = begun(training)
    assert derived(probe, 1)["rldk/grad/frozen_fraction"] == 2 / 8
    assert "rldk/grad/frozen_fraction" not in derived(probe, 2)


def test_gradients_of_a_step_are_in_its_row(small_training: Make) -> None:
    training = small_training()
    probe = begun(training)
    for step in (1, 2):
        training.step()
        expected = math.sqrt(sum(float(p.grad.double().square().sum()) for p in training.model.parameters()))
        found = derived(probe, step)
        assert found["rldk/grad/norm"] == pytest.approx(expected, rel=1e-6)
        assert found["rldk/nan/gradients"] == found["rldk/nan/weights"] == 0.0
        assert found["rldk/update/learning_rate"] == pytest.approx(1e-2)
    probe.end()
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not training.optimizer._optimizer_step_post_hooks


def test_the_trainers_optimizer_is_taken_where_the_event_names_none(small_training: Make) -> None:
    training = small_training()
    probe = OptimizerProbe()
    probe.begin(Training(trainer=SimpleNamespace(optimizer=training.optimizer), model=training.model))
    training.step()
    assert "rldk/grad/norm" in derived(probe, 1)
    probe.end()


@pytest.mark.parametrize(("level", "weights"), [("light", False), ("standard", True)])
def test_the_level_says_how_much_is_measured(level: str, weights: bool, small_training: Make) -> None:
    training = small_training()
    probe = begun(training, level=level)
    training.step()
    found = derived(probe, 1)
    assert "rldk/grad/norm" in found and ("rldk/weight/norm" in found) == weights
    probe.end()


def test_every_rank_counts_and_copies_that_part_are_told_of(small_training: Make) -> None:
    training = small_training()
    probe = begun(training)
    training.step()
    data = StepData(1)
    probe.collect(data)
    assert data.vector is not None
    here, there = data.vector.tolist(), [2 * value for value in data.vector.tolist()]
    alone = dict(probe.derive(1, {}, Merged(Table(), Table(), {}, [here])))
    both = probe.derive(2, {}, Merged(Table(), Table(), {}, [here, there]))
    assert both["rldk/grad/norm"] == pytest.approx(1.5 * alone["rldk/grad/norm"])
    assert both["rldk/system/rank_spread/weights"] == pytest.approx(0.5)
    assert derived(probe, 3, ranks=2).keys().isdisjoint({"rldk/grad/norm"}), "no step since"
    probe.end()


def test_a_nan_weight_is_said_before_the_next_rollout(small_training: Make) -> None:
    training = small_training()
    probe = begun(training)
    assert probe.before_step(3) == {}
    with torch.no_grad():
        training.model.weight[0, 0] = float("nan")
    assert probe.before_step(3) == {"rldk/nan/weights": 1.0}
    assert probe.end()["rldk/nan/weights"] == 1.0, "also where no step follows"


def test_without_an_optimizer_it_stays_silent() -> None:
    probe = OptimizerProbe()
    probe.begin(Training())
    assert probe.before_step(1) == derived(probe, 1) == probe.end() == {}
    data = StepData(1)
    probe.collect(data)
    assert data.vector is None
    probe.saved(1)


def test_what_a_change_of_the_learning_rate_did(small_training: Make, published: Published) -> None:
    training = small_training()
    probe = begun(training, published)
    rows: dict[int, dict[str, float]] = {}
    for step in range(1, 31):
        training.optimizer.param_groups[0]["lr"] = 1e-3 if step < 16 else 1e-1
        rows[step] = derived(probe, step, {"rldk/train/loss": training.step()})
    changes = {step: row for step, row in rows.items() if "rldk/lr/change_step" in row}
    assert list(changes) == [26], "when ten rows have followed"
    assert changes[26]["rldk/lr/change_step"] == 16.0
    assert changes[26]["rldk/lr/change"] == pytest.approx(100.0)
    assert changes[26]["rldk/lr/loss_response"] > 2  # the steps are too long
    assert "rldk/lr/kl_response" not in changes[26]
    ((columns, cells, step),) = published.of("log_table", "rldk/lr/changes")
    assert step == 26 and [row[columns.index("kind")] for row in cells] == ["rise"]
    assert probe.end() == {}


def test_a_change_near_the_end_is_told_at_the_end(small_training: Make, published: Published) -> None:
    training = small_training()
    probe = begun(training, published)
    for step in range(1, 11):
        training.optimizer.param_groups[0]["lr"] = 1e-3 if step < 6 else 1e-4
        training.step()
        assert "rldk/lr/change" not in derived(probe, step)
    last = probe.end()
    assert last["rldk/lr/change"] == pytest.approx(0.1) and last["rldk/lr/change_step"] == 6.0
    assert [step for *_, step in published.of("log_table", "rldk/lr/changes")] == [10]


def deep(layers: int = 30) -> SimpleNamespace:
    """Many layers, of which the last has by far the largest gradient."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        sum(layer(torch.ones(4)).square().sum() for layer in model).backward()  # type: ignore[union-attr]
        model[-1].weight.grad *= 1e3  # type: ignore[union-attr, operator]
        expected = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model[-1].parameters()))  # type: ignore[union-attr]
        optimizer.step()
        return expected

    return SimpleNamespace(model=model, optimizer=optimizer, step=step)


def test_few_layers_have_series_of_their_own() -> None:
    training = deep()
    probe = begun(training)
    for step in range(1, 16):
        expected, found = training.step(), derived(probe, step)
    shown = [key for key in found if key.startswith("rldk/grad/layer/")]
    ratios = [key for key in found if key.startswith("rldk/update/layer_ratio/")]
    assert 4 <= len(shown) <= 8 and 4 <= len(ratios) <= 8
    assert found["rldk/grad/layer/29"] == pytest.approx(expected, rel=1e-5)
    probe.end()


def test_what_was_not_measured_in_a_step_is_not_repeated() -> None:
    training = deep()
    probe = begun(training)
    for step in range(1, 16):
        training.step()
        found = derived(probe, step)
    assert [key for key in found if key.startswith("rldk/grad/layer/")]
    assert not [key for key in derived(probe, 16) if "/layer" in key]
    probe.end()


def test_the_gradients_over_the_steps_are_a_picture(published: Published) -> None:
    training = deep(3)
    probe = begun(training, published)
    for step in range(1, 5):
        if step != 3:
            training.step()
        derived(probe, step)
    assert published.of("log_heatmap", GRADIENTS) == []
    probe.end()
    ((heatmap, step),) = published.of("log_heatmap", GRADIENTS)
    assert step == 4 and heatmap.steps == (1, 2, 4) and heatmap.rows == ("0", "1", "2")


def test_the_gradients_at_each_save_are_a_picture(published: Published) -> None:
    training = deep(3)
    probe = begun(training, published)
    probe.saved(0)
    assert published.calls == [], "nothing was measured yet"
    training.step()
    derived(probe, 1)
    probe.saved(1)
    training.optimizer.zero_grad()
    training.model[1](torch.ones(4)).sum().backward()
    training.model[1].bias.grad[0] = float("nan")
    training.optimizer.step()
    derived(probe, 2)
    probe.saved(2)
    (first, _), (second, step) = published.of("log_heatmap", "rldk/checkpoint/gradient_by_layer")
    assert step == 2 and first.steps == (1,) and second.steps == (1, 2)
    broken = {(row, step) for step, row, value in second.cells() if math.isnan(value)}
    assert broken == {("1", 2)}
    probe.end()


def test_pictures_of_saves_do_not_grow(published: Published) -> None:
    training = deep(2)
    probe = begun(training, published)
    training.step()
    derived(probe, 1)
    for step in range(HEATMAP_SAVES + 20):
        probe.saved(step)
    latest = published.of("log_heatmap", "rldk/checkpoint/gradient_by_layer")[-1][0]
    assert latest.steps == tuple(range(20, HEATMAP_SAVES + 20))
    probe.end()


def test_a_fault_in_a_hook_is_kept_from_the_optimizer(
    small_training: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training, shield = small_training(), Shield()
    probe = OptimizerProbe()
    probe.begin(Training(model=training.model, optimizer=training.optimizer, shield=shield))
    monkeypatch.setattr("rldk_tracking.metrics.layers.gradient_squares", lambda parameters: 1 // 0)
    before = training.model.weight.detach().clone()
    with caplog.at_level(logging.ERROR):
        training.step()
    assert not torch.equal(before, training.model.weight)
    assert shield.faults == 1 and "an optimizer step" in caplog.text
    probe.end()


def test_after_its_end_it_keeps_nothing(small_training: Make) -> None:
    training = small_training()
    probe = begun(training)
    training.step()
    derived(probe, 1)
    probe.end()
    assert probe.before_step(1) == derived(probe, 2) == probe.end() == {}
    alive = weakref.ref(training.model)
    del training
    gc.collect()
    assert alive() is None


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
