"""The plugin beside a base class and a trainer as axolotl hands them over."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.integrations.conftest import Stack


@pytest.fixture
def axolotl(stack: Stack) -> Any:
    return stack("axolotl.integrations.base", BasePlugin=type("BasePlugin", (), {}))


class Trainer:
    """What the plugin and its callback ask of a trainer."""

    num_generations = 2
    reward_weights = torch.tensor([1.0, 0.5])

    def __init__(self) -> None:
        self.callback_handler = SimpleNamespace(callbacks=[])


def begun(axolotl: Any, trainer: Trainer, folder: Path, **options: Any) -> tuple[Any, RLDKCallback, Any]:
    """The plugin, its callback in a training that has begun, and how the step ends whose log this is."""
    plugin, state = axolotl.RLDKPlugin(), SimpleNamespace(global_step=0, max_steps=9)
    config = {"rldk": {"monitors": [GroupMonitor()], "strict": True, **options}}
    (callback,) = plugin.add_callbacks_post_trainer(config, trainer)
    trainer.callback_handler.callbacks.append(callback)
    control = SimpleNamespace(should_log=True, should_training_stop=False, should_save=False)
    callback.on_train_begin(SimpleNamespace(output_dir=str(folder)), state, control)

    def log(**logs: float) -> None:
        state.global_step += 1
        callback.on_log(None, state, control, logs=logs)

    return plugin, callback, log


def test_the_keys_of_the_configuration_are_the_callbacks_arguments(axolotl: Any) -> None:
    module, _, name = axolotl.RLDKPlugin().get_input_args().rpartition(".")
    assert module == axolotl.__name__
    assert getattr(axolotl, name)(rldk={"rules": "strict"}).rldk == {"rules": "strict"}
    (callback,) = axolotl.RLDKPlugin().add_callbacks_post_trainer({"rldk": {"rules": "strict"}}, Trainer())
    assert callback._settings.rules == "strict"
    (callback,) = axolotl.RLDKPlugin().add_callbacks_post_trainer({}, Trainer())
    assert callback._settings.rules == "safe"


def test_a_trainer_that_has_the_callback_gets_no_second_one(axolotl: Any) -> None:
    trainer = Trainer()
    trainer.callback_handler.callbacks = [RLDKCallback(trackers=[])]
    assert axolotl.RLDKPlugin().add_callbacks_post_trainer({}, trainer) == []
    trainer.callback_handler.callbacks[0].makes_way = True  # that of `rldk-tracking run`
    assert len(axolotl.RLDKPlugin().add_callbacks_post_trainer({}, trainer)) == 1


def test_scores_stand_where_the_trainers_own_could_not_be_read(axolotl: Any, tmp_path: Path) -> None:
    memory, trainer = InMemoryTracker(), Trainer()
    plugin, callback, log = begun(axolotl, trainer, tmp_path, trackers=[memory])
    rewards = {"right": [1.0, 0.0, 1.0, 1.0], "short": [0.0, 1.0, 0.0, 0.0]}
    plugin.on_rollouts_scored({}, trainer, ["?"] * 4, ["!"] * 4, rewards, [0.5, -0.5, 0.0, 0.0])
    log(loss=0.1, reward=0.8)
    log(loss=0.1)
    callback.run.close("finished")  # type: ignore[union-attr]
    assert memory.series["rldk/reward/group_tied_fraction"] == [(1, 0.5)], "the second step was not sampled for"
    assert memory.series["rldk/reward/min"] == [(1, 0.5)], "weighed as the trainer weighs"
    assert memory.series["rldk/advantage/fraction_positive"] == [(1, 0.25)]
    assert memory.series["rldk/reward/mean"] == [(1, 0.8)], "what the trainer logs of itself stands"


def test_what_tensors_say_stands_before_them(axolotl: Any, tmp_path: Path) -> None:
    memory = InMemoryTracker()
    callback = RLDKCallback(trackers=[memory], monitors=[], strict=True)
    trainer = Trainer()
    trainer.callback_handler.callbacks = [callback]
    plugin = axolotl.RLDKPlugin()
    scored = {"right": [9.0, 9.0]}
    plugin.on_rollouts_scored({}, trainer, [], [], scored, [0.0, 0.0])  # no training has begun yet
    for step in (1, 2):
        plugin.on_rollouts_scored({}, trainer, [], [], scored, [0.0, 0.0])
        callback.observe(Rollout(mask=torch.ones(4, 2), scores=torch.arange(4.0)), step=step)
    callback.close()
    assert memory.series["rldk/reward/mean"] == [(1, 1.5), (2, 1.5)]
    assert memory.series["rldk/reward/function/right/mean"] == [(2, 9.0)], "there was no run before the first step"


def test_a_fault_in_them_is_ours_alone(axolotl: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory, trainer = InMemoryTracker(), Trainer()
    plugin, callback, log = begun(axolotl, trainer, tmp_path, trackers=[memory])
    callback.run.shield.strict = False  # type: ignore[union-attr]
    plugin.on_rollouts_scored({}, trainer, [], [], {"right": [1.0]}, [0.0, 0.0])
    assert "on_rollouts_scored" in caplog.text
    log(loss=0.1)
    callback.run.close("finished")  # type: ignore[union-attr]
    assert memory.series["rldk/train/loss"] == [(1, 0.1)]


def test_numbers_are_those_of_plain_arithmetic(axolotl: Any) -> None:
    draw, size = random.Random(0), 4
    for rows in (8, 32):
        rewards = {name: [draw.choice([0.0, 0.25, 1.0, math.nan]) for _ in range(rows)] for name in ("a", "b")}
        advantages = [draw.gauss(0, 1) for _ in range(rows)]
        weights = {"a": 1.0, "b": 0.5}
        found = axolotl.numbers(rewards, advantages, weights, size)
        pairs = list(zip(rewards["a"], rewards["b"], strict=True))
        scores = [
            math.nan
            if math.isnan(a) and math.isnan(b)
            else sum(w * r for w, r in zip((1.0, 0.5), (a, b), strict=True) if not math.isnan(r))
            for a, b in pairs
        ]
        known = [score for score in scores if not math.isnan(score)]
        groups = [[s for s in scores[at : at + size] if not math.isnan(s)] for at in range(0, rows, size)]
        groups = [group for group in groups if len(group) > 1]
        expected = {
            "rldk/reward/mean": statistics.fmean(known),
            "rldk/reward/std": statistics.stdev(known),
            "rldk/reward/min": min(known),
            "rldk/reward/max": max(known),
            "rldk/reward/group_tied_fraction": statistics.fmean(len(set(group)) == 1 for group in groups),
            "rldk/reward/function/a/mean": statistics.fmean(r for r in rewards["a"] if not math.isnan(r)),
            "rldk/advantage/mean": statistics.fmean(advantages),
            "rldk/advantage/std": statistics.stdev(advantages),
        }
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-6)
        assert "rldk/reward/group_tied_fraction" not in axolotl.numbers(rewards, advantages, weights)
        assert not any(key.startswith("rldk/length/") for key in found)
