"""What the probe hands on of a rollout and of logs, and what it says of what does not come."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rldk_tracking.charts.spec import REWARDS
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import Table
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.probes import rollouts
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.rollouts import SCORES, RolloutProbe
from rldk_tracking.probes.steps import rollout_columns
from rldk_tracking.ranks import Merged
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.contract import Contract
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
    contract = Contract(frozenset({"mask", "scores"}), numbers=frozenset({"rldk/train/loss"}))
    logged: Mapping[str, float] = MappingProxyType({})

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

        return Observation({"rldk/train/loss": 0.5}, read_tensors, self.logged)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source()
    monkeypatch.setattr(rollouts, "source_for", lambda trainer, report: made)
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


def with_scores() -> Merged:
    columns = {name: column.numpy().astype(float) for name, column in rollout_columns(ROLLOUT).items()}
    return Merged(Table(columns), Table(), {}, [])


def seen(probe: RolloutProbe, step: int, row: dict[str, float], of: Merged) -> dict[str, float]:
    """What the probe adds to a row, and what it says late of earlier ones, under (step, key)."""
    probe.collect(StepData(step, logs={"loss": 0.5}))
    found = dict(probe.derive(step, {"rldk/train/loss": 0.5, **row}, of))
    found.update({(at, key): value for at, late in probe.late_rows().items() for key, value in late.items()})
    return found


@pytest.mark.parametrize("why", ["", "it has no such method"])
def test_logs_stand_for_completions_that_do_not_come(
    source: Source, caplog: pytest.LogCaptureFixture, published: Published, why: str
) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace(), publish=published))
    source.logged, source.missing = LOGGED, (why,) if why else ()
    with caplog.at_level(logging.WARNING):
        found = [seen(probe, step, row, merged()) for step, row in enumerate([{}, {"rldk/reward/mean": 9.0}, {}], 1)]
    assert found[0] == {}, "they may come yet"
    coverage = found[1].pop("rldk/system/coverage")
    of_first = {(1, key): value for key, value in LOGGED.items()}
    assert found[1] == of_first | {"rldk/length/mean": 7.0}, "what the row has stands"
    assert found[2] == LOGGED | {"rldk/system/coverage": coverage}
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("rldk: SimpleNamespace (of no package) cannot be read whole" + (f": {why}." if why else "."))
    assert (
        "Read: 3 of 15 series of this trainer, 3 of them from its logs; not: rldk/length/{max, min, p95, std}, " in said
    )
    assert coverage == pytest.approx(3 / 15)
    ((columns, rows, step),) = published.of("log_table", "rldk/system/coverage")
    assert step == 2 and len(columns) == 1 and rows[0][0].startswith("Read: 3 of 15")
    assert rows[0][0].endswith(f"; why: {why}.") or not why
    probe.collect(StepData(4))
    assert set(probe.derive(9, {}, merged())) == {"rldk/system/coverage"}, "of another step"
    probe.begin(Training(SimpleNamespace()))
    assert seen(probe, 1, {}, merged()) == {}, "another training"


def test_of_a_trainer_that_samples_nothing_no_completions_are_expected(caplog: pytest.LogCaptureFixture) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    for step in range(1, 5):
        assert seen(probe, step, {}, merged()) == ({} if step == 1 else {"rldk/system/coverage": 1.0})
    assert caplog.records == []


def test_what_comes_is_not_taken_from_logs(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    source.logged = LOGGED | {"rldk/policy/clip_fraction": 0.0}
    for step in range(1, 6):
        found = seen(probe, step, {}, with_scores())
        assert found == ({} if step == 1 else {"rldk/system/coverage": 1.0})
    assert not caplog.records


def test_what_comes_no_more_is_taken_from_logs_without_a_gap(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    source.logged = LOGGED
    found = [seen(probe, step, {}, with_scores() if step < 4 else merged()) for step in range(1, 7)]
    assert found[3] == {"rldk/system/coverage": 1.0}
    assert found[4] == LOGGED | {(4, key): value for key, value in LOGGED.items()} | {
        "rldk/system/coverage": pytest.approx(3 / 15)
    }
    assert found[5] == LOGGED | {"rldk/system/coverage": pytest.approx(3 / 15)}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("period", [2, 3])
def test_steps_between_two_rollouts_are_no_loss(source: Source, period: int, caplog: pytest.LogCaptureFixture) -> None:
    probe = RolloutProbe()
    source.contract = dataclasses.replace(source.contract, period=period)
    probe.begin(Training(SimpleNamespace()))
    source.logged = LOGGED
    for step in range(1, 10):
        found = seen(probe, step, {}, with_scores() if step % period == 1 else merged())
        assert found.keys() <= {"rldk/system/coverage"}
    assert not caplog.records


def test_nothing_is_said_before_a_log_has_come(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    for step in range(1, 5):
        probe.collect(StepData(step))
        assert probe.derive(step, {}, merged()) == {}
    assert not caplog.records
    probe.end()
    assert len(caplog.records) == 1, "no log ever came"


def test_what_was_held_back_in_a_run_of_one_step_is_given_out_at_its_end(source: Source) -> None:
    probe = RolloutProbe()
    probe.begin(Training(SimpleNamespace()))
    source.logged = LOGGED
    assert seen(probe, 1, {}, merged()) == {}
    assert probe.end() == {} and probe.late_rows() == {1: LOGGED} and probe.late_rows() == {}


def test_a_source_that_fails_leaves_the_logs(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    shield, probe = Shield(), RolloutProbe()
    probe.begin(Training(SimpleNamespace(), shield=shield))
    monkeypatch.setattr(Source, "read", lambda self, step, logs: logs["nobody's"])
    data = StepData(1, logs={"loss": 0.5, "reward": 2.0})
    probe.collect(data)
    assert data.scalars == {"rldk/train/loss": 0.5} and shield.faults == 1
    probe.end()
    assert probe.late_rows() == {} and probe.derive(1, {}, merged()) == {}


def test_a_trainer_that_no_source_can_be_made_for_has_its_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    shield, probe = Shield(), RolloutProbe()
    monkeypatch.setattr(rollouts, "source_for", lambda trainer, report: trainer.nothing)
    probe.begin(Training(SimpleNamespace(), shield=shield))
    data = StepData(1, logs={"loss": 0.5, "reward": 2.0})
    probe.collect(data)
    assert data.scalars == {"rldk/train/loss": 0.5, "rldk/reward/mean": 2.0} and shield.faults == 1


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
