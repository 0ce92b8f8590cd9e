"""A training that goes on from a checkpoint: judged as if nothing had happened, whatever the checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.monitors.test_base import LENGTH, Events, Told, Watching, small_trainer
from tests.test_run_alerts import long_rule

pytestmark = pytest.mark.slow

TOO_LONG = {step: {LENGTH: 9.0} for step in range(2, 20)}


def train(folder: Path, tracker: InMemoryTracker, steps: int, resume: bool = False, **options: Any) -> Monitor:
    monitor = Watching(Told(TOO_LONG), trackers=[tracker], rules=[long_rule()], strict=True)
    trainer = small_trainer(folder, [monitor], max_steps=steps, save_strategy="steps", save_steps=3, **options)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-3") if resume else None)
    callbacks = trainer.callback_handler.callbacks
    assert [type(callback).__name__ for callback in callbacks].count("Watching") == 1
    return monitor


def told(alerts: list[Alert]) -> list[tuple[str, str, int]]:
    return [(alert.rule, alert.state, alert.step) for alert in alerts]


@pytest.mark.parametrize("restore", [False, True], ids=["plain", "restore_callback_states"])
def test_an_alert_that_is_open_is_not_told_again(tmp_path: Path, restore: bool) -> None:
    before, after = InMemoryTracker(), InMemoryTracker()
    train(tmp_path, before, 4)
    assert told(before.alerts) == [("team.long", "firing", 2)]
    monitor = train(tmp_path, after, 6, resume=True, restore_callback_states_from_checkpoint=restore)
    assert monitor.run is not None, "whoever made the callback sees the run"
    assert monitor.run.latest_step == 6 and told(monitor.alerts) == []
    assert after.series["rldk/alerts/firing"] == [(4, 1.0), (5, 1.0), (6, 1.0)]
    assert after.statuses[0] == (3, "running")


def test_a_row_that_the_tracker_has_is_not_written_again(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, tracker, 5)
    train(tmp_path, tracker, 7, resume=True)
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [1, 2, 3, 4, 5, 6, 7]


def test_the_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, InMemoryTracker(), 3)
    stored = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())["stateful_callbacks"]
    resume = stored["Watching"]["attributes"]["resume"]
    assert "team.long" in resume["rules"]


def resumed(stored: dict[str, Any], step: int = 3) -> tuple[Events, InMemoryTracker]:
    """A monitor at the beginning of a training that goes on."""
    tracker = InMemoryTracker()
    events = Events(Watching(Told(TOO_LONG), trackers=[tracker], rules=[long_rule()], strict=True))
    events.state.global_step, events.state.stateful_callbacks = step, stored
    events.call("on_train_begin")
    return events, tracker


def open_alert() -> dict[str, Any]:
    """What a monitor with an open alert stores."""
    events = Events(Watching(Told(TOO_LONG), trackers=[InMemoryTracker()], rules=[long_rule()], strict=True))
    events.call("on_train_begin")
    for _ in range(3):
        events.step()
    return events.monitor.state()


def test_of_two_callbacks_of_one_class_the_first_entry_counts_and_none_is_added() -> None:
    stored: dict[str, Any] = {"Watching": [open_alert(), {"args": {}, "attributes": {"resume": {}}}]}
    events, tracker = resumed(stored)
    assert isinstance(stored["Watching"], dict), "or it would grow with every save"
    events.step()
    assert tracker.alerts == [] and tracker.series["rldk/alerts/firing"] == [(4, 1.0)]


def test_a_checkpoint_of_a_training_without_us_has_no_entry() -> None:
    stored: dict[str, Any] = {}
    events, tracker = resumed(stored)
    assert "Watching" in stored, "transformers writes into it at every save"
    events.step()
    assert told(tracker.alerts) == [("team.long", "firing", 4)]


def test_a_new_training_takes_over_no_state() -> None:
    events, tracker = resumed({"Watching": open_alert()}, step=0)
    events.step()
    events.step()
    assert told(tracker.alerts) == [("team.long", "firing", 2)]


@pytest.mark.parametrize("stored", [{"Watching": 3}, {"Watching": []}, None])
def test_what_is_stored_may_be_anything(stored: Any) -> None:
    events, tracker = resumed(stored)
    events.step()
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [4]


def test_a_state_without_its_parts_costs_the_state_alone() -> None:
    tracker = InMemoryTracker()
    events = Events(Watching(Told(), trackers=[tracker]))
    events.state.global_step, events.state.stateful_callbacks = 3, {"Watching": {"args": {}}}
    events.call("on_train_begin")
    events.step()
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [4]


def test_before_training_there_is_nothing_to_store() -> None:
    monitor = Watching(trackers=[InMemoryTracker()])
    assert monitor.state() == {"args": {}, "attributes": {"resume": {}}} and monitor.resume == {}
