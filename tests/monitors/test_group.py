from __future__ import annotations

from pathlib import Path

from rldk_tracking.demo.trainers import rloo_trainer
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.trackers.memory import InMemoryTracker


def test_it_works_alone(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    rloo_trainer(tmp_path, max_steps=2, callbacks=[GroupMonitor(trackers=[tracker], strict=True)]).train()
    assert [step for step, _ in tracker.series["rldk/reward/group_tied_fraction"]] == [1, 2]
    assert "rldk/grad/layer_norm/p50" not in tracker.series, "that is another monitor's"
