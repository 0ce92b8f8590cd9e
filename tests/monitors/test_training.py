from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerCallback

from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.monitors.training import prepare, run_info, trainer_above
from rldk_tracking.run import Run
from rldk_tracking.settings import Settings


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


def test_what_trackers_learn_holds_no_secret() -> None:
    args = SimpleNamespace(
        learning_rate=1e-5, beta=0.0, run_name="r", output_dir="out", hub_token="hf_secret", logging_steps=5
    )
    info = run_info(None, args, None, None)
    assert info.config == {"learning_rate": 1e-5, "beta": 0.0, "logging_steps": 5}
    assert info.trainer == "custom"
    assert "hf_secret" not in repr(info.config)


def test_a_loop_without_a_trainer_finds_the_open_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = Run(Settings())
    prepare(run, None, None)
    with mlflow.start_run():
        names = [tracker.name for tracker in run.find_trackers()]
    assert names == ["mlflow"]
