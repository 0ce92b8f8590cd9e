from __future__ import annotations

import gc
import json
import re
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rldk_tracking
from rldk_tracking.callback import RLDKCallback, RLDKMonitor, attach
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.probes.checkpoints import CheckpointProbe
from rldk_tracking.probes.gold import GoldProbe
from rldk_tracking.probes.optimizer import OptimizerProbe
from rldk_tracking.probes.preference import PreferenceProbe
from rldk_tracking.probes.rollouts import RolloutProbe
from rldk_tracking.probes.steps import ResourceProbe
from rldk_tracking.trackers.memory import InMemoryTracker


def test_attach_takes_a_trainer_and_nothing_else() -> None:
    with pytest.raises(TypeError, match="takes a transformers or TRL trainer, got {}"):
        attach({})


def test_what_is_attached_keeps_no_trainer(tmp_path: Path) -> None:
    trainer: Any = grpo_trainer(tmp_path, max_steps=1)
    callback, alive = attach(trainer), weakref.ref(trainer)
    assert callback in trainer.callback_handler.callbacks
    del trainer
    gc.collect()
    assert alive() is None


def test_all_that_fits_is_looked_at() -> None:
    everything = [RolloutProbe, PreferenceProbe, OptimizerProbe, ResourceProbe, CheckpointProbe]
    assert [type(probe) for probe in RLDKCallback().make_probes()] == everything
    judged = RLDKCallback(
        gold_score_fn=lambda prompts, completions: [0.0], max_overhead=0.5, level="full"
    ).make_probes()
    assert [type(probe) for probe in judged] == [*everything, GoldProbe]
    gold, optimizer, checkpoints = judged[-1], judged[2], judged[4]
    assert isinstance(gold, GoldProbe) and gold.max_overhead == 0.5
    assert isinstance(optimizer, OptimizerProbe) and isinstance(checkpoints, CheckpointProbe)
    assert optimizer.level == checkpoints.level == "full"
    light = RLDKMonitor().make_probes()[2]
    assert isinstance(light, OptimizerProbe) and light.level == "light"


def test_each_training_has_probes_of_its_own() -> None:
    callback = RLDKCallback()
    first, second = callback.make_probes(), callback.make_probes()
    assert not {id(probe) for probe in first} & {id(probe) for probe in second}


def test_attached_once_saved_with_and_known_by_its_metrics(tmp_path: Path) -> None:
    trainer: Any = grpo_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    tracker = InMemoryTracker()
    callback = attach(trainer, trackers=[tracker], strict=True)
    assert attach(trainer) is callback
    assert callback.metrics.step is None
    trainer.train()
    assert callback.metrics.step == 2
    assert callback.metrics.reward_mean == tracker.series["rldk/reward/mean"][-1][1]
    assert callback.metrics.value_explained_variance is None, "GRPO has no critic"
    stored = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert stored["RLDKCallback"]["attributes"], "what a resumed run needs"


def test_exactly_the_monitors_that_are_given(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], monitors=[GroupMonitor()], strict=True)
    grpo_trainer(tmp_path, max_steps=1, callbacks=[callback]).train()
    assert "rldk/reward/mean" in tracker.series
    assert [key for key in tracker.series if key.startswith(("rldk/resources/", "rldk/update/ratio"))] == []


def test_the_simple_monitor_takes_the_lighter_look(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    grpo_trainer(tmp_path, max_steps=2, callbacks=[RLDKMonitor(trackers=[tracker], strict=True)]).train()
    assert "rldk/grad/norm" in tracker.series
    assert [key for key in tracker.series if key.startswith("rldk/update/ratio")] == []


def test_training_twice_with_one_callback_makes_two_runs(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], strict=True)
    trainer: Any = grpo_trainer(tmp_path, max_steps=2, callbacks=[callback])
    trainer.train()
    first = callback.run
    trainer.train()
    assert callback.run is not first
    assert [step for step, _ in tracker.series["rldk/reward/mean"]] == [1, 2, 1, 2]


@pytest.mark.slow
def test_two_trainers_in_one_process_do_not_mix(tmp_path: Path) -> None:
    trackers = [InMemoryTracker(), InMemoryTracker()]
    for index, tracker in enumerate(trackers):
        callback = RLDKCallback(trackers=[tracker], strict=True)
        grpo_trainer(tmp_path / str(index), max_steps=2 + index, seed=index, callbacks=[callback]).train()
    assert [len(tracker.series["rldk/reward/mean"]) for tracker in trackers] == [2, 3]


def test_every_public_name_is_there() -> None:
    assert [name for name in rldk_tracking.__all__ if not hasattr(rldk_tracking, name)] == []


def test_the_docstring_names_each_group_of_series() -> None:
    """What is in them has `rldk-tracking keys`, out of the one place where a key is documented."""
    table = re.findall(r"^ *\| ([\w, ]+) \|", RLDKCallback.__doc__ or "", re.MULTILINE)
    assert sorted(", ".join(table[1:]).split(", ")) == sorted({name.split("/")[1] for name in CATALOGUE} - {"<group>"})


def test_what_monitors_do_not_heed_is_said(caplog: pytest.LogCaptureFixture) -> None:
    RLDKMonitor(monitors=[GroupMonitor()])
    assert caplog.text == ""
    RLDKCallback(monitors=[GroupMonitor()], log_samples=True)
    assert "log_samples are not used beside monitors" in caplog.text


def test_options_for_a_trainer_that_has_its_callback_are_said(caplog: pytest.LogCaptureFixture) -> None:
    handler = SimpleNamespace(callbacks=[RLDKCallback()])
    assert attach(SimpleNamespace(callback_handler=handler)) is handler.callbacks[0] and caplog.text == ""
    attach(SimpleNamespace(callback_handler=handler), on_critical="stop")
    assert "on_critical of attach() is not used" in caplog.text
