"""The callback: its events, the flags that it sets, and arguments that cannot be."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.monitors.ppo import PPOMonitor
from rldk_tracking.probes.base import Probe, StepData
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.test_run_alerts import long_rule

pytestmark = pytest.mark.slow

LENGTH, NAN = "rldk/length/mean", "rldk/nan/weights"


class Told(Probe):
    """Adds numbers by step, and notes what it was told of each."""

    def __init__(self, numbers: Mapping[int, Mapping[str, float]] | None = None, honours_stop: bool = True) -> None:
        self.numbers = numbers or {}
        self.honours_stop = honours_stop
        self.begun: list[int] = []
        self.steps: list[tuple[int, bool, bool]] = []
        self.saves: list[int] = []

    def before_step(self, step: int) -> Mapping[str, float]:
        self.begun.append(step)
        return {}

    def collect(self, data: StepData) -> None:
        self.steps.append((data.step, bool(data.logs), data.is_last))
        data.add({"rldk/train/loss": 1.0, **self.numbers.get(data.step, {})})

    def saved(self, step: int) -> None:
        self.saves.append(step)


class Watching(Monitor):
    """A monitor of one probe that the test holds."""

    def __init__(self, probe: Probe | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.probe = Told() if probe is None else probe

    def make_probes(self) -> Sequence[Probe]:
        return [self.probe]


def small_trainer(folder: Path, callbacks: Sequence[Any], **options: Any) -> Trainer:
    """A linear model that learns a sum in a few milliseconds a step."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(x).squeeze(-1) - y).square().mean()}

    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    settings = {
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "label_names": ["y"],
        **options,
    }
    args = TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, **settings)
    data = [{"x": row, "y": row.sum()} for row in rows]
    return Trainer(Model(), args, train_dataset=data, eval_dataset=data[:8], callbacks=list(callbacks))


class Events:
    """Calls a monitor as a trainer of unknown kind does."""

    def __init__(self, monitor: Monitor, max_steps: int = 0) -> None:
        self.monitor = monitor
        self.args = SimpleNamespace(output_dir=None)
        self.state = SimpleNamespace(global_step=0, max_steps=max_steps, stateful_callbacks={})
        self.control = SimpleNamespace(should_log=False, should_save=False, should_training_stop=False)

    def call(self, name: str, **more: Any) -> None:
        getattr(self.monitor, name)(self.args, self.state, self.control, **more)

    def step(self, logs: Mapping[str, Any] | None = None) -> None:
        """One step with a beginning and an end, logged or not."""
        self.control.should_save = False
        self.call("on_step_begin")
        self.state.global_step += 1
        self.control.should_log = logs is not None
        self.call("on_step_end")
        if logs is not None:
            self.call("on_log", logs=logs)


# Events.


def test_a_step_is_closed_once_with_its_logs_where_it_has_some(tmp_path: Path) -> None:
    tracker, probe = InMemoryTracker(), Told()
    monitor = Watching(probe, trackers=[tracker], strict=True)
    small_trainer(tmp_path, [monitor], logging_steps=2, save_strategy="steps", save_steps=3).train()
    assert probe.begun == [0, 1, 2, 3]
    assert probe.steps == [(1, False, False), (2, True, False), (3, False, False), (4, True, True)]
    assert probe.saves == [3, 4]
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [1, 2, 3, 4]
    assert tracker.statuses == [(0, "running"), (4, "finished")]


def test_what_somebody_logs_after_the_trainer_did_adds_to_the_steps_row(tmp_path: Path) -> None:
    class Logging(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step > 0:
                trainer.log({"rldk/mine": float(state.global_step), "loss": 99.0})

    tracker = InMemoryTracker()
    trainer = small_trainer(tmp_path, [Logging(), GroupMonitor(trackers=[tracker], strict=True)])
    trainer.train()
    assert tracker.series["rldk/mine"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert len(tracker.series["rldk/train/loss"]) == 4 and max(tracker.series["rldk/train/loss"])[1] < 99.0
    own = [key for key, points in tracker.series.items() if len({step for step, _ in points}) < len(points)]
    assert own == [], "nothing twice in a step"


def test_an_evaluation_has_the_step_that_it_was_made_at(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    trainer = small_trainer(
        tmp_path, [GroupMonitor(trackers=[tracker], strict=True)], eval_strategy="steps", eval_steps=2
    )
    trainer.train()
    logged = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert dict(tracker.series["rldk/eval/loss"]) == pytest.approx(logged) and set(logged) == {2, 4}
    assert [step for step, _ in tracker.series["rldk/health/score"]] == [1, 2, 3, 4], "after the last step too"


def test_events_of_a_training_that_never_began_are_left_alone() -> None:
    monitor = Watching(trackers=[InMemoryTracker()], strict=True)
    events = Events(monitor)
    events.step({"loss": 1.0})
    events.call("on_save")
    events.call("on_train_end")
    assert monitor.run is None and monitor.alerts == [] and monitor.probe.steps == []  # type: ignore[attr-defined]


def test_a_callback_that_came_too_late_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = InMemoryTracker()
    late = GroupMonitor(trackers=[tracker], strict=True)

    class Adds(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                trainer.add_callback(late)

    trainer = small_trainer(tmp_path, [Adds()])
    trainer.add_callback(GroupMonitor(trackers=[InMemoryTracker()], strict=True))
    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        trainer.train()
        said = [record.getMessage() for record in caplog.records if "was added after" in record.getMessage()]
        assert len(said) == 1 and said[0].startswith("rldk: GroupMonitor was added after Trainer began to train")
        assert tracker.series == {}
        caplog.clear()
        trainer.train()
    assert "was added after" not in caplog.text and tracker.series != {}


def test_an_evaluation_before_training_is_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = small_trainer(tmp_path, [GroupMonitor(trackers=[InMemoryTracker()], strict=True)])
    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        trainer.evaluate()
        trainer.train()
    assert "was added after" not in caplog.text


def test_a_closed_run_is_left_alone() -> None:
    tracker = InMemoryTracker()
    events = Events(Watching(trackers=[tracker], strict=True))
    events.call("on_train_begin")
    events.step()
    events.call("on_train_end")
    events.step()
    events.call("on_train_end")
    assert tracker.series["rldk/train/loss"] == [(1, 1.0)] and tracker.statuses == [(0, "running"), (1, "finished")]


def test_a_fault_at_train_begin_costs_the_training_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Watching):
        def make_probes(self) -> Sequence[Probe]:
            raise LookupError("ours")

    with caplog.at_level(logging.ERROR):
        trainer = small_trainer(tmp_path, [Broken(trackers=[InMemoryTracker()])])
        trainer.train()
    assert trainer.state.global_step == 4 and "on_train_begin" in caplog.text


# What rules ask for.


def test_the_flags_of_a_trainer_that_honours_them() -> None:
    probe = Told({2: {LENGTH: 9.0}})
    events = Events(Watching(probe, trackers=[InMemoryTracker()], strict=True, rules=[long_rule("save")]))
    events.call("on_train_begin")
    events.step()
    assert not events.control.should_save
    events.step()
    assert events.control.should_save and not events.control.should_training_stop
    events.step()
    assert not events.control.should_save, "asked for once"
    events.call("on_train_end")


@pytest.mark.parametrize("logs", [None, {"loss": 1.0}])
def test_a_stop_saves_and_ends(logs: Mapping[str, float] | None) -> None:
    tracker, probe = InMemoryTracker(), Told({2: {NAN: 1.0}})
    events = Events(Watching(probe, trackers=[tracker], on_critical="stop", strict=True))
    events.call("on_train_begin")
    events.step(logs)
    assert not events.control.should_training_stop
    events.step(logs)
    assert events.control.should_save and events.control.should_training_stop
    events.call("on_train_end")
    assert tracker.statuses[-1] == (2, "stopped")


def test_a_trainer_that_goes_on_all_the_same_gets_the_exception_two_steps_later() -> None:
    tracker, probe = InMemoryTracker(), Told({1: {NAN: 1.0}})
    events = Events(Watching(probe, trackers=[tracker], on_critical="stop"))
    events.call("on_train_begin")
    events.step()
    events.step()
    with pytest.raises(TrainingStopped, match=r"nan\.weights"):
        events.step()
    assert events.state.global_step == 3 and tracker.statuses[-1][1] == "stopped"


def test_a_trainer_that_ignores_the_flag_is_stopped_when_it_has_saved() -> None:
    probe = Told({1: {NAN: 1.0}}, honours_stop=False)
    events = Events(Watching(probe, trackers=[InMemoryTracker()], on_critical="stop"))
    events.call("on_train_begin")
    events.call("on_save")  # of no interest to us
    events.step()
    assert events.control.should_save
    with pytest.raises(TrainingStopped):
        events.call("on_save")
    assert probe.saves == [0, 1]


def test_where_nothing_can_be_saved_it_is_stopped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.run.Run.can_save", False)
    probe = Told({1: {NAN: 1.0}}, honours_stop=False)
    events = Events(Watching(probe, trackers=[InMemoryTracker()], on_critical="stop"))
    events.call("on_train_begin")
    with pytest.raises(TrainingStopped):
        events.step()
    assert not events.control.should_save


def test_a_trainer_that_says_nothing_as_a_step_begins_is_asked_as_one_ends() -> None:
    probe = Told(honours_stop=False)
    events = Events(Watching(probe, trackers=[InMemoryTracker()], strict=True))
    events.call("on_train_begin")
    for step in (1, 2):
        events.state.global_step = step
        events.call("on_step_end")
    assert probe.begun == [1, 2]
    events.call("on_train_end")


@pytest.mark.parametrize(("counts_first", "should_log"), [(True, True), (False, True), (False, False)])
def test_a_loop_of_its_own_logs_before_or_after_it_counts_the_step(counts_first: bool, should_log: bool) -> None:
    """PPO counts first; RLOO up to TRL 0.21 logs first, at every step, whether that was asked for or not."""
    probe, begun = Told(honours_stop=False), 4
    events = Events(Watching(probe, trackers=[InMemoryTracker()], strict=True))
    events.state.global_step, events.control.should_log = begun, should_log
    events.call("on_train_begin")
    for _ in range(3):
        events.state.global_step += counts_first
        events.call("on_log", logs={"loss": 1.0})
        events.state.global_step += not counts_first
        events.call("on_step_end")
    assert probe.steps == [(5, True, False), (6, True, False), (7, True, False)]
    events.call("on_train_end")


# Arguments.


def test_a_wrong_argument_is_named_at_construction() -> None:
    with pytest.raises(ValueError, match="on_critical"):
        RLDKCallback(on_critical="panic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level"):
        RLDKCallback(level="enormous")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_overhead"):
        RLDKCallback(max_overhead=0)
    with pytest.raises(ValueError, match="kl_threshold"):
        PPOMonitor(kl_threshold=-1)
    with pytest.raises((ValueError, KeyError), match="kl.hihg"):
        RLDKCallback(overrides={"kl.hihg": {"threshold": 1.0}})
    with pytest.raises(TypeError, match="monitors must hold"):
        RLDKCallback(monitors=["ppo"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="https"):
        RLDKCallback(slack="http://example.com/hook")
    with pytest.raises(ValueError, match="webhook"):
        RLDKCallback(overrides={"kl.high": {"actions": [{"webhook": "http://example.com"}]}})
