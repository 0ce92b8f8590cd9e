from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.probes import gold
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.gold import KEY, GoldProbe
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker


def scored(probe: GoldProbe, rollout: Rollout | None) -> dict[str, float]:
    data = StepData(1, rollout=rollout)
    probe.collect(data)
    return {key: float(value) for key, value in data.scalars.items()}


def rollout(prompts: tuple[str, ...] | None = ("p", "q", "r")) -> Rollout:
    return Rollout(mask=torch.ones(3, 2), prompts=prompts, completions=("a", "bb", "ccc"))


def begun(probe: GoldProbe) -> GoldProbe:
    probe.begin(Training())
    return probe


def test_the_mean_of_the_users_score_over_a_sample() -> None:
    asked: list[tuple[Sequence[str], Sequence[str]]] = []

    def length(prompts: Sequence[str], completions: Sequence[str]) -> list[int]:
        asked.append((prompts, completions))
        return [len(text) for text in completions]

    assert scored(begun(GoldProbe(length, samples=2)), rollout()) == {KEY: 1.5}
    assert scored(begun(GoldProbe(length)), rollout(None)) == {KEY: 2.0}
    assert asked == [(["p", "q"], ["a", "bb"]), (["", "", ""], ["a", "bb", "ccc"])]


def test_a_score_that_is_no_number_counts_nowhere() -> None:
    assert scored(begun(GoldProbe(lambda p, c: [math.nan, 2.0, 4.0])), rollout()) == {KEY: 3.0}
    assert scored(begun(GoldProbe(lambda p, c: [math.nan] * 3)), rollout()) == {}


def test_without_texts_nobody_is_asked() -> None:
    probe = begun(GoldProbe(lambda p, c: [][0]))
    assert scored(probe, None) == scored(probe, Rollout(mask=torch.ones(3, 2))) == {}


class Clock:
    """Time passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_dear_score_is_asked_as_often_as_its_cost_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(), list[float]()
    monkeypatch.setattr(gold, "time", clock)

    def slow(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        asked.append(clock.now)
        clock.now += 2.0
        return [0.0] * len(completions)

    probe = begun(GoldProbe(slow, max_overhead=0.25))
    while clock.now < 200:
        scored(probe, rollout())
        clock.now += 0.5
    assert asked[:3] == [100.0, 108.0, 116.0], "two seconds of eight, and the first at once"
    assert 2.0 * len(asked) / (clock.now - 100.0) == pytest.approx(0.25, abs=0.02)
    probe.begin(Training())
    scored(probe, rollout())
    assert asked[-1] == clock.now - 2.0, "a training that begins asks at once"


def test_a_score_that_fails_is_asked_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(), list[float]()
    monkeypatch.setattr(gold, "time", clock)

    def broken(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        asked.append(clock.now)
        clock.now += 2.0
        raise TimeoutError("the judge does not answer")

    probe = begun(GoldProbe(broken, max_overhead=0.25))
    for _ in range(2):
        with pytest.raises(TimeoutError):
            scored(probe, rollout())
        clock.now += 5.5
        assert scored(probe, rollout()) == {}
        clock.now += 0.5
    assert asked == [100.0, 108.0]


def test_the_last_step_is_always_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(gold, "time", clock)

    def slow(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        clock.now += 2.0
        return [float(len(text)) for text in completions]

    probe, found = begun(GoldProbe(slow, max_overhead=0.01)), {}
    for step in range(1, 6):
        data = StepData(step, is_last=step == 5, rollout=rollout())
        probe.collect(data)
        if KEY in data.scalars:
            found[step] = data.scalars[KEY]
        clock.now += 1.0
    assert found == {1: 2.0, 5: 2.0}


def test_a_cheap_score_is_asked_at_every_step() -> None:
    calls: list[int] = []
    probe = begun(GoldProbe(lambda p, c: (calls.append(1), [0.0] * 3)[1], max_overhead=1.0))
    for _ in range(5):
        scored(probe, rollout())
    assert len(calls) == 5


def test_scores_of_a_wrong_number_are_named() -> None:
    with pytest.raises(ValueError, match="1 scores for 3 completions"):
        scored(begun(GoldProbe(lambda prompts, completions: [1.0])), rollout())


def test_what_cannot_be_called_is_named() -> None:
    with pytest.raises(TypeError, match="gold_score_fn must be callable"):
        RLDKCallback(gold_score_fn="accuracy")  # type: ignore[arg-type]


def test_in_a_real_run(tmp_path: Path) -> None:
    tracker, means = InMemoryTracker(), list[float]()

    def digits(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        scores = [float(sum(character.isdigit() for character in text)) for text in completions]
        means.append(sum(scores) / len(scores))
        time.sleep(0.001)
        return scores

    callback = RLDKCallback(trackers=[tracker], strict=True, gold_score_fn=digits, max_overhead=1.0)
    grpo_trainer(tmp_path, max_steps=2, callbacks=[callback]).train()
    assert tracker.series[KEY] == [(1, pytest.approx(means[0])), (2, pytest.approx(means[1]))]
