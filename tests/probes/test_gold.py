from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.monitors.gold import KEY, GoldScoreMonitor
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker


def rollout() -> Rollout:
    return Rollout(mask=torch.ones(3, 2), prompts=("p", "q", "r"), completions=("a", "bb", "ccc"))


def test_the_mean_of_the_users_score(run: Any) -> None:
    monitor = GoldScoreMonitor(lambda prompts, completions: [len(text) for text in completions], samples=2)
    monitor.begin_within(run, None, None, None, None)
    run.observe(rollout())
    monitor.collect(run, 1, {})
    assert run.part.scalars == {KEY: 1.5}


def test_a_dear_score_is_asked_as_often_as_its_cost_allows(run: Any) -> None:
    calls = []

    def slow(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        calls.append(1)
        time.sleep(0.02)
        return [0.0] * len(completions)

    monitor = GoldScoreMonitor(slow, max_overhead=0.25)
    monitor.begin_within(run, None, None, None, None)
    begin = time.monotonic()
    while time.monotonic() - begin < 0.4:
        run.observe(rollout())
        monitor.collect(run, 1, {})
    assert 2 <= len(calls) <= 6, "a quarter of 0.4 s at 0.02 s each, and the first at once"


def test_scores_of_a_wrong_number_are_named(run: Any) -> None:
    monitor = GoldScoreMonitor(lambda prompts, completions: [1.0])
    monitor.begin_within(run, None, None, None, None)
    run.observe(rollout())
    with pytest.raises(ValueError, match="1 scores for 3 completions"):
        monitor.collect(run, 1, {})


def test_what_cannot_be_called_is_named() -> None:
    with pytest.raises(TypeError, match="gold_score_fn must be callable"):
        RLDKCallback(gold_score_fn="accuracy")  # type: ignore[arg-type]


def test_in_a_real_run(tmp_path: Path) -> None:
    tracker = InMemoryTracker()

    def digits(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [float(sum(character.isdigit() for character in text)) for text in completions]

    callback = RLDKCallback(trackers=[tracker], strict=True, gold_score_fn=digits, max_overhead=1.0)
    grpo_trainer(tmp_path, max_steps=2, callbacks=[callback]).train()
    assert [step for step, _ in tracker.series[KEY]] == [1, 2]
    assert all(value >= 0 for _, value in tracker.series[KEY])
