"""What is judged while a real run goes on, and what is judged of its rows afterwards, are the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking import JsonlTracker, RLDKCallback, replay
from rldk_tracking.demo.faults import FAULTS
from rldk_tracking.demo.trainers import grpo_trainer


@pytest.mark.parametrize("name", ["lr-jump", "nan-reward"])
def test_the_same_alerts_from_the_rows_of_a_run(tmp_path: Path, name: str) -> None:
    path, fault = tmp_path / "rows.jsonl", FAULTS[name]
    callback = RLDKCallback(trackers=[JsonlTracker(path)])
    trainer = grpo_trainer(tmp_path, max_steps=24, callbacks=[callback], **fault.settings(16))
    fault.apply(trainer, 16)
    trainer.train()
    live = [(alert.rule, alert.severity, alert.state, alert.step, alert.value) for alert in callback.alerts]
    report = replay(path)
    assert live
    assert [(a.rule, a.severity, a.state, a.step, a.value) for _, a in report.alerts] == live
    assert callback.run is not None and callback.run.judge is not None
    assert report.unknown == callback.run.judge.engine.unknown()
