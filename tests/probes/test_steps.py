"""What the probes hand on of a rollout and of logs."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from rldk_tracking.charts.spec import REWARDS
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import Table
from rldk_tracking.metrics.resources import ResourceMeter
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.probes import steps
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.steps import SCORES, ResourceProbe, RolloutProbe, merge_scalars, row_of, weights_spread
from rldk_tracking.ranks import Merged
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.logs import Observation
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.probes.conftest import Published

ROLLOUT = Rollout(
    mask=torch.ones(2, 3, dtype=torch.bool),
    scores=torch.tensor([0.5, 2.0]),
    prompts=("p", "q"),
    completions=("good", "better"),
)
UPDATE = PolicyUpdate(mask=torch.ones(2, 3, dtype=torch.bool), new_logprobs=torch.zeros(2, 3))


class Source:
    """Sees a rollout and an update in every step, unless it is broken."""

    rows_per_rank, honours_stop, rollout_seconds = 48, False, 0.25
    is_broken = False
    missing: tuple[str, ...] = ()
    withheld: Mapping[str, float] = MappingProxyType({})

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def attach(self, trainer: Any, shield: Shield) -> None:
        self.calls.append(("attach", trainer, shield))

    def detach(self) -> None:
        self.calls.append(("detach",))

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        self.calls.append(("read", step, logs))

        def read_tensors() -> tuple[Rollout, PolicyUpdate]:
            if self.is_broken:
                raise LookupError("no tensors")
            return ROLLOUT, UPDATE

        return Observation({"rldk/train/loss": 0.5}, read_tensors, self.withheld)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source()
    monkeypatch.setattr(steps, "source_for", lambda trainer: made)
    return made


def merged(*scores: float) -> Merged:
    return Merged(Table({SCORES: np.array(scores)} if scores else {}), Table(), {}, [])


def test_what_the_trainers_source_saw_is_the_steps(source: Source) -> None:
    trainer, shield = SimpleNamespace(), Shield()
    probe = RolloutProbe()
    assert (probe.rows_per_rank, probe.honours_stop) == (0, True)
    probe.begin(Training(trainer, shield=shield))
    assert source.calls == [("attach", trainer, shield)]
    assert (probe.rows_per_rank, probe.honours_stop) == (48, False)
    data = StepData(3, logs={"loss": 0.5})
    data.add({"rldk/train/loss": 9.0})
    probe.collect(data)
    assert source.calls[-1] == ("read", 3, {"loss": 0.5})
    assert data.rollout is ROLLOUT and data.update is UPDATE
    assert data.scalars == {"rldk/train/loss": 0.5} and data.rollout_seconds == 0.25
    assert probe.end() == {} and source.calls[-1] == ("detach",)
    assert probe.end() == {} and source.calls.count(("detach",)) == 1


def test_tensors_that_cannot_be_read_cost_nothing_else(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    shield = Shield()
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace(), shield=shield))
    source.is_broken = True
    with caplog.at_level(logging.ERROR):
        for step in (1, 2):
            data = StepData(step)
            probe.collect(data)
            assert data.scalars == {"rldk/train/loss": 0.5} and data.rollout is None and data.update is None
    assert shield.faults == 2 and len(caplog.records) == 1


LOGGED = {"rldk/reward/mean": 0.5, "rldk/length/mean": 7.0}


@pytest.mark.parametrize("missing", [(), ("it has no such method",)])
def test_logs_stand_for_completions_that_do_not_come(
    source: Source, caplog: pytest.LogCaptureFixture, missing: tuple[str, ...]
) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    source.withheld, source.missing = LOGGED, missing
    found = []
    for step, row in enumerate([{}, {"rldk/reward/mean": 9.0}, {}], start=1):
        probe.collect(StepData(step))
        found.append(probe.derive(step, row, merged()))
    assert found == [{}, {"rldk/length/mean": 7.0}, LOGGED], "what the row has stands"
    said = [record for record in caplog.records if "no completions came of it in 2 steps" in record.getMessage()]
    assert len(said) == (not missing)
    probe.collect(StepData(4))
    assert probe.derive(9, {}, merged()) == {}, "of another step"
    probe.begin(Training(SimpleNamespace()))
    probe.collect(StepData(1))
    assert probe.derive(1, {}, merged()) == {}, "another training"


def test_of_a_trainer_that_samples_nothing_no_completions_are_expected(caplog: pytest.LogCaptureFixture) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    for step in range(1, 5):
        probe.collect(StepData(step, logs={"loss": 0.5}))
        assert probe.derive(step, {}, merged()) == {}
    assert caplog.records == []


@pytest.mark.parametrize("first", [1, 2, 3])
def test_once_completions_come_they_are_waited_for(source: Source, first: int) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    source.withheld = LOGGED
    for step in range(1, 6):
        probe.collect(StepData(step))
        found = probe.derive(step, {}, merged(1.0) if step == first else merged())
        assert "rldk/length/mean" not in found or 2 <= step < first


def test_a_loop_of_the_users_own_is_known_by_its_logs() -> None:
    probe = RolloutProbe()
    probe.begin(Training())
    data = StepData(1, logs={"loss": 0.5, "rldk/own": 3.0, "note": "x"}, rollout=ROLLOUT)
    data.add({"rldk/train/loss": 0.25})
    probe.collect(data)
    assert data.scalars == {"rldk/train/loss": 0.25, "rldk/own": 3.0}, "what the user said stands"
    assert data.rollout is ROLLOUT
    probe.end()


def test_the_distribution_of_rewards_grows_and_is_shown_at_the_end(published: Published) -> None:
    probe = RolloutProbe()
    probe.begin(Training(publish=published))
    assert probe.derive(1, {}, merged(0.0, 1.0, 1.0)) == {}
    probe.derive(2, {}, merged())
    probe.derive(3, {}, merged(0.5))
    assert published.calls == []
    probe.end()
    ((heatmap, step),) = published.of("log_heatmap", REWARDS)
    assert step == 3 and heatmap.steps == (1, 3)
    assert sum(value for at, _, value in heatmap.cells() if at == 1) == pytest.approx(1.0)
    probe.end()
    assert len(published.calls) == 1


def test_where_groups_are_tied_is_told_by_the_whole_run_also_after_a_resume() -> None:
    def row(probe: RolloutProbe, *scores: float) -> Mapping[str, float]:
        table = Table({SCORES: np.array(scores), "reward/group": np.zeros(len(scores))})
        return probe.derive(1, {}, Merged(table, Table(), {}, []))

    too_hard = {"rldk/reward/group_tied_fraction_all_max": 0.0, "rldk/reward/group_tied_fraction_all_min": 1.0}
    probe, resumed, fresh = RolloutProbe(), RolloutProbe(), RolloutProbe()
    for one in (probe, resumed, fresh):
        one.begin(Training())
    assert row(probe, 0.0, 1.0) == dict.fromkeys(too_hard, 0.0)
    assert row(probe, 0.0, 0.0) == too_hard
    resumed.load_state(probe.state())
    assert row(resumed, 0.0, 0.0) == too_hard and row(fresh, 0.0, 0.0) == {}
    probe.begin(Training())
    assert row(probe, 0.0, 0.0) == {}, "another training"


def test_it_is_shown_while_the_run_goes_on(published: Published) -> None:
    probe = RolloutProbe()
    probe.begin(Training(publish=published))
    for step in range(1, 31):
        probe.derive(step, {}, merged(0.0, float(step)))
    assert [step for _, step in published.of("log_heatmap", REWARDS)] == [5, 30]
    probe.end()
    assert len(published.calls) == 2, "there is nothing new"


@pytest.mark.parametrize("asked", [True, False])
def test_texts_are_shown_only_where_they_are_asked_for(source: Source, published: Published, asked: bool) -> None:
    probe = RolloutProbe(log_samples=asked)
    probe.begin(Training(SimpleNamespace(), publish=published))
    for step in range(1, 28):
        probe.collect(StepData(step))
    tables = published.of("log_table", "rldk/samples")
    assert [step for *_, step in tables] == ([1, 26] if asked else [])
    assert ("better" in str(published.calls)) == asked


def test_samples_of_a_real_training(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    monitor = GroupMonitor(trackers=[tracker], strict=True, log_samples=True)
    grpo_trainer(tmp_path, max_steps=2, callbacks=[monitor]).train()
    ((step, columns, rows),) = tracker.tables["rldk/samples"]
    assert step == 1
    scores = [row[columns.index("score")] for row in rows]
    assert max(scores) == pytest.approx(dict(tracker.series["rldk/reward/max"])[1])
    assert min(scores) == pytest.approx(dict(tracker.series["rldk/reward/min"])[1])
    assert all(isinstance(row[columns.index("completion")], str) for row in rows)
    assert tracker.heatmaps[REWARDS].steps[0] == 1


def test_nothing_is_left_on_the_trainer(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, max_steps=1, callbacks=[GroupMonitor(trackers=[InMemoryTracker()], strict=True)])
    before = set(vars(trainer))
    trainer.train()
    left = {name for name in set(vars(trainer)) - before if callable(getattr(trainer, name))}
    assert left <= {"model_wrapped", "deepspeed"}


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
