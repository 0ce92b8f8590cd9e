from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback

from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.journal.settings import Settings
from rldk_tracking.monitors.training import (
    _RUNS,
    find_trackers,
    has_trained,
    make_run,
    run_info,
    run_of,
    trainer_above,
)
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.slack import SlackNotifier


def test_the_trainer_is_found_from_within_its_event(tmp_path: Path) -> None:
    found: list[Any] = []

    class Look(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            found.append(trainer_above())

    trainer = grpo_trainer(tmp_path, max_steps=1, callbacks=[Look()])
    trainer.train()
    assert found == [trainer]


def test_outside_of_training_there_is_none() -> None:
    assert trainer_above() is None


@pytest.mark.parametrize("wish", [True, False])
def test_what_trackers_may_save(wish: bool) -> None:
    run = make_run(None, None, None, None, None, None, Settings(saves_view=wish))
    assert run.info.saves_view is wish


def test_what_trackers_learn_holds_no_secret() -> None:
    args = SimpleNamespace(
        learning_rate=1e-5, beta=0.0, run_name="r", output_dir="out", hub_token="hf_secret", logging_steps=5
    )
    info = run_info(None, args, None, None)
    assert info.config == {"learning_rate": 1e-5, "beta": 0.0, "logging_steps": 5}
    assert (info.name, info.output_dir, info.trainer) == ("r", "out", "custom")
    assert run_info(SimpleNamespace(), args, None, None).trainer == "SimpleNamespace"
    assert "hf_secret" not in repr(info.config)


def names(trackers: list[Tracker]) -> list[str]:
    return [tracker.name for tracker in trackers]


def test_a_loop_without_a_trainer_finds_the_open_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    find = find_trackers(None, Settings())
    with mlflow.start_run():
        assert "mlflow" in names(find())
    assert "mlflow" not in names(find()), "they are looked for when the run begins"


def test_the_trackers_of_a_trainer_are_those_of_its_report_to() -> None:
    handler = SimpleNamespace(callbacks=[TrainerCallback()])
    trainer = SimpleNamespace(callback_handler=handler)
    assert "slack" not in names(find_trackers(trainer, Settings())())
    slack = SlackNotifier("https://hooks.slack.example/services/x")
    assert slack in find_trackers(trainer, Settings(slack=slack))()


def test_a_slack_that_a_second_monitor_names_is_found_too() -> None:
    settings = Settings()
    find = find_trackers(SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[])), settings)
    slack = SlackNotifier("https://hooks.slack.example/services/x")
    settings.adopt(Settings(slack=slack))
    assert slack in find()


def test_a_trainer_that_cannot_be_hashed_has_its_run() -> None:
    """As TRL's KTOTrainer in 0.29 and 1.0, which is a dataclass, so that one equals another too."""

    @dataclass
    class Trainer:
        pass

    class Made:
        is_open = closed = False
        publisher = SimpleNamespace(is_open=False, latest=(3,))

    make: Any = Made
    trainer, other, before = Trainer(), Trainer(), len(_RUNS)
    run = run_of(trainer, make)
    assert run_of(trainer, make) is run and run_of(other, make) is not run
    assert has_trained(trainer) and not has_trained(Trainer())
    del trainer, other
    assert len(_RUNS) == before, "it is forgotten with its trainer"
