"""What rules ask for when they fire, in a real trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking import Alert, InMemoryTracker, RLDKCallback, TrainingStopped
from rldk_tracking.demo.trainers import grpo_trainer, ppo_trainer
from tests.trackers.test_slack import Webhook as Server
from tests.trackers.test_slack import webhook as server

__all__ = ["server"]


def rules(folder: Path, actions: str) -> str:
    """A rule that fires at step 3, and takes these actions."""
    path = folder / "rules.yaml"
    path.write_text(
        "preset: none\nrules:\n  - id: team.third\n    keys: [rldk/length/mean]\n    condition: level\n"
        f"    parameters: {{threshold: 0.5}}\n    persistence: [3, 3]\n    actions: [{actions}]\n"
    )
    return str(path)


def train(folder: Path, kind: Any = grpo_trainer, **options: Any) -> Any:
    callback = RLDKCallback(trackers=[InMemoryTracker()], **options)
    trainer = kind(folder, max_steps=6, callbacks=[callback])
    try:
        trainer.train()
    except TrainingStopped:
        pass
    return trainer


def test_save(tmp_path: Path) -> None:
    trainer = train(tmp_path, rules=rules(tmp_path, "save"))
    assert trainer.state.global_step == 6
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").exists()


def test_stop(tmp_path: Path) -> None:
    trainer = train(tmp_path, rules=rules(tmp_path, "stop"))
    assert trainer.state.global_step == 3
    assert [folder.name for folder in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_stop_and_save_in_ppo_which_knows_no_stop_flag(tmp_path: Path) -> None:
    pytest.importorskip("trl.experimental.ppo", reason="PPOTrainer was removed in TRL 1.13")
    trainer = train(tmp_path, ppo_trainer, rules=rules(tmp_path, "stop, save"))
    assert trainer.state.global_step < 6
    assert (tmp_path / "checkpoint-3").is_dir()


def test_functions_and_webhooks(tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise OSError("the pager is out")

    hook = {"webhook": {"address": server.url, "allow_loopback": True}}
    with caplog.at_level(logging.ERROR):
        trainer = train(
            tmp_path,
            rules=rules(tmp_path, "alert"),
            overrides={"team.third": {"actions": [broken, heard.append, hook]}},
        )
    assert trainer.state.global_step == 6
    assert [(alert.rule, alert.state, alert.step) for alert in heard] == [("team.third", "firing", 3)]
    assert [(message["rule"], message["step"]) for message in server.messages] == [("team.third", 3)]
    assert len([record for record in caplog.records if "an action of team.third" in record.getMessage()]) == 1
    assert server.url not in caplog.text
