"""Memory and speed of a step, and the row that the ranks' parts become."""

from __future__ import annotations

import math
import os
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from rldk_tracking.metrics.columns import Table
from rldk_tracking.metrics.resources import ResourceMeter
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.steps import ResourceProbe, merge_scalars, row_of, weights_spread
from rldk_tracking.ranks import Merged
from rldk_tracking.rollout import Rollout


def collected(probe: ResourceProbe, step: int, **fields: Any) -> StepData:
    data = StepData(step, **fields)
    probe.collect(data)
    return data


def numbers(data: StepData) -> dict[str, float]:
    return {key: float(value) for key, value in data.scalars.items()}


def test_memory_and_speed_of_this_process() -> None:
    probe = ResourceProbe()
    probe.begin(Training())
    rollout = Rollout(mask=torch.tensor([[True, True], [True, False], [True, True]]))
    first = numbers(collected(probe, 1, rollout=rollout))
    time.sleep(0.01)
    second = numbers(collected(probe, 2, rollout=rollout))
    resident = psutil.Process(os.getpid()).memory_info().rss / 2**30
    assert second["rldk/resources/host_rss_gib"] == pytest.approx(resident, rel=0.2)
    assert "rldk/throughput/step_seconds" not in first, "a step's time is that between two ends"
    seconds = second["rldk/throughput/step_seconds"]
    assert 0.01 <= seconds < 5
    assert second["rldk/throughput/tokens_per_second"] == pytest.approx(5 / seconds, rel=1e-3)
    assert second["rldk/throughput/samples_per_second"] == pytest.approx(3 / seconds, rel=1e-3)
    assert [key for key in second if "gpu" in key] == [], "there is no GPU to tell of"


def test_how_much_of_a_step_is_sampling() -> None:
    probe = ResourceProbe()
    probe.begin(Training())
    collected(probe, 1)
    time.sleep(0.01)
    row = numbers(collected(probe, 2, rollout_seconds=0.005))
    share = row["rldk/throughput/rollout_fraction"]
    assert share == pytest.approx(0.005 / row["rldk/throughput/step_seconds"], rel=1e-3)
    assert "rldk/throughput/tokens_per_second" not in row, "there was no rollout"


def test_the_driver_is_asked_as_a_step_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(ResourceMeter, "ask_driver", lambda self: calls.append(1))
    probe = ResourceProbe()
    assert probe.before_step(0) == {} and calls == [], "before it has begun"
    probe.begin(Training())
    assert probe.before_step(0) == {}
    assert calls == [1]
    collected(probe, 1)
    assert calls == [1]


def test_the_device_of_the_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Any] = []

    class Meter(ResourceMeter):
        def __init__(self, device: Any = None) -> None:
            devices.append(device)
            super().__init__(None)

    monkeypatch.setattr("rldk_tracking.probes.steps.ResourceMeter", Meter)
    ResourceProbe().begin(Training(device=torch.device("cuda", 1)))
    assert devices == [torch.device("cuda", 1)]


class Accelerator:
    """As accelerate's, of several processes."""

    def __init__(self, processes: int) -> None:
        self.num_processes = processes

    def gather(self, tensor: Any) -> Any:
        time.sleep(0.02)
        return tensor


def test_waiting_for_other_ranks_is_counted_until_training_ends() -> None:
    accelerator = Accelerator(2)
    probe = ResourceProbe()
    probe.begin(Training(trainer=SimpleNamespace(accelerator=accelerator)))
    accelerator.gather(1)
    assert collected(probe, 1, waited_seconds=1.0).waited_seconds >= 1.02
    assert collected(probe, 2).waited_seconds == 0.0
    assert probe.end() == {}
    assert "gather" not in vars(accelerator)


def test_evaluation_and_saving_stop_the_clock() -> None:
    class Trainer:
        def evaluate(self) -> None:
            time.sleep(0.3)
            self._save_checkpoint()

        def _save_checkpoint(self) -> None:
            time.sleep(0.3)

    trainer, probe = Trainer(), ResourceProbe()
    probe.begin(Training(trainer=trainer))
    collected(probe, 1)
    time.sleep(0.05)
    trainer.evaluate()
    trainer._save_checkpoint()
    row = numbers(collected(probe, 2, rollout_seconds=0.02))
    assert 0.05 <= row["rldk/throughput/step_seconds"] < 0.3
    assert row["rldk/throughput/rollout_fraction"] == pytest.approx(0.02 / row["rldk/throughput/step_seconds"])
    probe.end()
    assert vars(trainer) == {}


def test_alone_nothing_is_wrapped() -> None:
    accelerator = Accelerator(1)
    probe = ResourceProbe()
    probe.begin(Training(trainer=SimpleNamespace(accelerator=accelerator)))
    assert "gather" not in vars(accelerator)
    accelerator.gather(1)
    assert collected(probe, 1).waited_seconds == 0.0


def test_before_and_after_a_training_nothing_is_measured() -> None:
    probe = ResourceProbe()
    assert collected(probe, 1).scalars == {}
    probe.begin(Training())
    collected(probe, 1)
    probe.end()
    assert collected(probe, 2).scalars == {}
    probe.begin(Training())
    assert "rldk/throughput/step_seconds" not in collected(probe, 1).scalars, "the clock begins anew"


def test_ranks_are_merged_as_the_catalogue_says() -> None:
    ranks = [
        {"rldk/resources/host_rss_gib": 1.0, "rldk/throughput/tokens_per_second": 100.0, "rldk/train/loss": 0.25},
        {"rldk/resources/host_rss_gib": 3.0, "rldk/throughput/tokens_per_second": 50.0, "rldk/train/loss": 0.75},
    ]
    merged = merge_scalars(ranks)
    assert merged["rldk/resources/host_rss_gib"] == 3.0
    assert merged["rldk/throughput/tokens_per_second"] == 150.0
    assert merged["rldk/train/loss"] == 0.5


def test_a_number_that_one_rank_has_stands() -> None:
    assert merge_scalars([{}, {"rldk/train/loss": 2.0}]) == {"rldk/train/loss": 2.0}


def test_the_rollout_wins_over_the_logs_and_nothing_unfinite_remains() -> None:
    columns = {"length/tokens": np.array([2.0, 4.0])}
    scalars = {"rldk/length/mean": 99.0, "rldk/train/loss": math.nan, "rldk/grad/norm": math.inf}
    row = row_of(Merged(Table(columns), Table(), scalars, []))
    assert row["rldk/length/mean"] == 3.0
    assert "rldk/train/loss" not in row
    assert "rldk/grad/norm" not in row


def test_nothing_is_no_row() -> None:
    assert row_of(Merged(Table(), Table(), {}, [])) == {}
    assert merge_scalars([]) == merge_scalars([{}, {}]) == {}


def test_the_least_the_most_and_the_sum_of_ranks() -> None:
    ranks = [
        {"rldk/length/min": 3.0, "rldk/length/max": 9.0, "own/number": 2.0},
        {"rldk/length/min": 2.0, "rldk/length/max": 7.0, "own/number": 4.0},
    ]
    assert merge_scalars(ranks) == {"rldk/length/min": 2.0, "rldk/length/max": 9.0, "own/number": 3.0}


def test_copies_of_the_weights_that_part() -> None:
    norms = [{"rldk/weight/norm": 2.0}, {"rldk/weight/norm": 1.5}, {}]
    assert weights_spread(norms) == {"rldk/system/rank_spread/weights": pytest.approx(0.25)}
    assert weights_spread([norms[0], dict(norms[0])]) == {"rldk/system/rank_spread/weights": 0.0}
    assert weights_spread(norms[:1]) == weights_spread([{"rldk/weight/norm": 0.0}] * 2) == {}
