from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.monitors.rollouts import RolloutMonitor
from rldk_tracking.trackers.memory import InMemoryTracker


def test_samples_are_a_table_only_where_they_are_asked_for(tmp_path: Path) -> None:
    silent, asked = InMemoryTracker(), InMemoryTracker()
    grpo_trainer(tmp_path, max_steps=2, callbacks=[RolloutMonitor(trackers=[silent], strict=True)]).train()
    monitor = RolloutMonitor(trackers=[asked], strict=True, log_samples=True)
    grpo_trainer(tmp_path, max_steps=2, callbacks=[monitor]).train()
    assert silent.tables == {}
    ((step, columns, rows),) = asked.tables["rldk/samples"]
    assert step == 1
    scores = [row[columns.index("score")] for row in rows]
    assert max(scores) == pytest.approx(dict(asked.series["rldk/reward/max"])[1])
    assert min(scores) == pytest.approx(dict(asked.series["rldk/reward/min"])[1])
    assert all(isinstance(row[columns.index("completion")], str) for row in rows)


def test_nothing_is_left_on_the_trainer(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, max_steps=1, callbacks=[RolloutMonitor(trackers=[InMemoryTracker()], strict=True)])
    before = set(vars(trainer))
    trainer.train()
    left = {name for name in set(vars(trainer)) - before if callable(getattr(trainer, name))}
    assert left <= {"model_wrapped", "deepspeed"}
