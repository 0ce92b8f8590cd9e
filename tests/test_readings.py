from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.isolation import Shield
from rldk_tracking.ranks import Part
from rldk_tracking.readings import Readings, reduced
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.base import Observation
from rldk_tracking.trackers.memory import InMemoryTracker

OVERHEAD = {"rldk/system/overhead_fraction": 0.25}
ROLLOUT = Rollout(mask=torch.ones(2, 3, dtype=torch.bool), scores=torch.tensor([1.0, 3.0]))
UPDATE = PolicyUpdate(mask=torch.ones(2, 3, dtype=torch.bool), new_logprobs=torch.zeros(2, 3))


def fails() -> Any:
    raise RuntimeError("cannot be read")


def test_all_of_it() -> None:
    observation = Observation(made=lambda: (ROLLOUT, UPDATE))
    readings = Readings(observation, [lambda: {"a": 1.0}, lambda: {"b": 2.0}], lambda: torch.ones(3))
    part = reduced(Part(scalars={"c": 3.0}), readings, OVERHEAD, Shield(strict=True))
    assert part.scalars == {"a": 1.0, "b": 2.0, "c": 3.0, **OVERHEAD}
    assert part.rollout["reward/score"].tolist() == [1.0, 3.0]
    assert part.update
    assert part.probe is not None and part.probe.tolist() == [1.0, 1.0, 1.0]


def test_what_cannot_be_read_is_missing_and_the_rest_is_there(caplog: pytest.LogCaptureFixture) -> None:
    shield = Shield()
    readings = Readings(Observation(made=fails), [fails, lambda: {"b": 2.0}], fails)
    part = reduced(Part(scalars={"c": 3.0}), readings, OVERHEAD, shield)
    assert part.scalars == {"b": 2.0, "c": 3.0, **OVERHEAD}
    assert part.rollout == part.update == part.tails == {} and part.probe is None
    assert shield.faults == 3
    said = " ".join(record.getMessage() for record in caplog.records)
    assert all(f"failed in {place}" in said for place in ("reading a rollout", "measuring", "reading the optimizer"))


def test_a_rollout_that_cannot_be_reduced_does_not_take_the_update_along() -> None:
    shield = Shield()
    part = reduced(Part(), Readings(Observation(made=lambda: (fails, UPDATE)), [], None), OVERHEAD, shield)
    assert part.rollout == {} and part.update
    assert shield.faults == 1


def test_strict_lets_faults_out() -> None:
    with pytest.raises(RuntimeError, match="cannot be read"):
        reduced(Part(), Readings(Observation(made=fails), [], None), OVERHEAD, Shield(strict=True))


def test_nothing_at_all_is_no_row_of_overhead() -> None:
    assert reduced(Part(), Readings(Observation(), [dict], None), OVERHEAD, Shield()).scalars == {}


def test_the_training_thread_puts_no_rollout_together(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rldk_tracking.sources import trl_grpo

    threads = []
    original = trl_grpo.rollout_of

    def watched(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return original(*args)

    monkeypatch.setattr(trl_grpo, "rollout_of", watched)
    tracker = InMemoryTracker()
    grpo_trainer(tmp_path, max_steps=3, callbacks=[RLDKCallback(trackers=[tracker])]).train()
    assert len(threads) == 3
    assert threading.main_thread() not in threads
    assert [step for step, _ in tracker.series["rldk/reward/mean"]] == [1, 2, 3]
    assert [step for step, _ in tracker.series["rldk/throughput/tokens_per_second"]] == [2, 3]


def test_the_overhead_counts_the_hooks_in_the_trainers_methods(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rldk_tracking.sources.trl_grpo import GroupSource

    original = GroupSource._keep_generation

    def slow(self: Any, output: Any) -> None:
        time.sleep(0.2)
        original(self, output)

    monkeypatch.setattr(GroupSource, "_keep_generation", slow)
    tracker = InMemoryTracker()
    grpo_trainer(tmp_path, max_steps=3, callbacks=[RLDKCallback(trackers=[tracker])]).train()
    shares, seconds = (
        dict(tracker.series[key]) for key in ("rldk/system/overhead_fraction", "rldk/throughput/step_seconds")
    )
    for step in (2, 3):
        assert 0.2 < shares[step] * seconds[step] < 0.2 + 0.5 * (seconds[step] - 0.2)
