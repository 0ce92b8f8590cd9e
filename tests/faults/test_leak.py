"""Thousands of steps leave memory and time of a step as they were; the end of training leaves nothing behind.

`tests/benchmarks/leak.py` makes a hundred thousand, and says how long one takes.
"""

from __future__ import annotations

import threading
from pathlib import Path

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.benchmarks.leak import everything_open, go


def test_many_steps(tmp_path: Path) -> None:
    result = go(4_000, tmp_path)
    first, last = result.calls_at_the_ends()
    assert 100 < last < 1.02 * first, (first, last)
    assert result.slowdown() < 1.2
    assert abs(result.growth()) < 5, result.memory
    assert result.left == []


def test_two_trainings_at_once_and_one_after_the_other(tmp_path: Path) -> None:
    before = everything_open()
    memories = [InMemoryTracker(), InMemoryTracker()]
    trainers = [
        grpo_trainer(tmp_path / str(i), max_steps=4 + i, callbacks=[RLDKCallback(trackers=[memory])], seed=i)
        for i, memory in enumerate(memories)
    ]
    # accelerate's state belongs to the process: the second trainer is made before the first one trains.
    for trainer in trainers:
        trainer.train()
    for i, memory in enumerate(memories):
        assert [step for step, _ in memory.series["rldk/reward/mean"]] == list(range(1, 5 + i))
        assert memory.statuses[-1][1] == "finished"
    rewards = [dict(memory.series["rldk/reward/mean"]) for memory in memories]
    assert rewards[0] != rewards[1]
    trainers[0].train()
    assert [step for step, _ in memories[0].series["rldk/reward/mean"]] == [1, 2, 3, 4] * 2
    assert [step for step, _ in memories[1].series["rldk/reward/mean"]] == [1, 2, 3, 4, 5]
    assert [name for name in everything_open() - before if "rldk" in name] == []
    for trainer in trainers:
        optimizer = trainer.optimizer.optimizer
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks


def test_trainings_in_two_threads_keep_apart(tmp_path: Path) -> None:
    """Two loops of one's own, each with its callback, at the same time."""
    memories = [InMemoryTracker() for _ in range(2)]

    def loop(number: int) -> None:
        callback = RLDKCallback(trackers=[memories[number]], output_dir=str(tmp_path))
        for step in range(1, 51):
            callback.observe(step=step, metrics={"loss": float(number)})
        callback.close()

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, memory in enumerate(memories):
        assert memory.series["rldk/train/loss"] == [(step, float(number)) for step in range(1, 51)]
