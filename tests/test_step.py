from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from rldk_tracking.ahead import Ahead
from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Part, Ranks, Schema
from rldk_tracking.readings import Readings
from rldk_tracking.rollout import Rollout
from rldk_tracking.sources.base import Observation
from rldk_tracking.step import Step
from rldk_tracking.trackers.base import Row, UnavailableError
from rldk_tracking.trackers.memory import InMemoryTracker

SCORED = Rollout(mask=torch.ones(4, 2, dtype=torch.bool), scores=torch.tensor([1.0, 2.0, 3.0, 6.0]))
SEEN = Observation(made=lambda: (SCORED, None))
OVERHEAD = {"rldk/system/overhead_fraction": 0.25}


class Exchange(Ranks):
    """One rank that counts the exchanges, and has another beside it where that is wanted."""

    def __init__(self, size: int = 1) -> None:
        schema = Schema(catalogue.ROLLOUT_COLUMNS, catalogue.UPDATE_COLUMNS, catalogue.TAILS, ())
        super().__init__(schema)
        self.world_size = size
        self.threads: list[threading.Thread] = []

    def merge(self, part: Part) -> Any:
        self.threads.append(threading.current_thread())
        return self._alone(part)


def step_of(ranks: Ranks, ahead: Ahead | None, calls: list[str]) -> Step:
    """One with a number of each kind; `calls` tells what was read, in order."""

    def told(name: str, value: Any) -> Callable[[], Any]:
        return lambda: (calls.append(name), value)[1]

    def read_probe(values: Sequence[float]) -> Mapping[str, float]:
        return {"rldk/grad/norm": values[0]}

    pending: Callable[[], Tensor] = told("probe", torch.tensor([2.0]))
    readings = Readings(SEEN, [told("quick", {"rldk/throughput/step_seconds": 0.5})], pending)
    part = Part(scalars={"rldk/train/loss": 0.5, "rldk/reward/mean": 99.0})
    return Step(ranks, part, readings, ahead, OVERHEAD, lambda values: dict(read_probe(values)))


def read_ahead(ranks: Ranks) -> Ahead:
    ahead = Ahead(SEEN, ranks, Shield(strict=True))
    ahead.compute()
    return ahead


def whole() -> dict[str, float]:
    """The row of a step that nobody has asked before."""
    return step_of(Exchange(), None, []).row(Shield(strict=True))[1]


def test_the_row_is_the_same_whenever_it_is_read() -> None:
    row = whole()
    assert row["rldk/reward/mean"] == 3.0  # the rollout wins over the logs
    assert row.items() >= {**OVERHEAD, "rldk/grad/norm": 2.0, "rldk/throughput/step_seconds": 0.5}.items()
    for idle in (True, False):
        for ahead in (None, read_ahead(Exchange())):
            step = step_of(Exchange(), ahead, [])
            known = step.at_once(Shield(strict=True), idle)
            assert step.is_whole == (idle and ahead is not None)
            merged, found = step.row(Shield(strict=True))
            assert found == row
            assert known.items() <= row.items() or ahead is None
            assert merged.probes == [[2.0]]
            assert merged.rollout.get("reward/score") is not None


def test_with_the_rollout_read_and_an_idle_device_all_is_known_at_once() -> None:
    calls: list[str] = []
    step = step_of(Exchange(), read_ahead(Exchange()), calls)
    assert step.at_once(Shield(strict=True), device_is_idle=True) == whole()
    assert calls == ["quick", "probe"]
    step.row(Shield(strict=True))
    assert calls == ["quick", "probe"]


def test_a_rollout_that_is_just_being_read_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the patience lasts, and no longer."""
    monkeypatch.setattr("rldk_tracking.step.PATIENCE", 60.0)
    ahead = Ahead(SEEN, Exchange(), Shield(strict=True))
    threading.Timer(0.1, ahead.compute).start()
    step = step_of(Exchange(), ahead, [])
    assert step.at_once(Shield(strict=True), device_is_idle=True) == whole()
    assert step.is_whole


def test_nothing_is_waited_for_on_the_training_thread() -> None:
    """Neither a device that still computes nor a rollout that still has to be read."""
    for ahead, idle, expected in (
        (read_ahead(Exchange()), False, {"rldk/train/loss": 0.5, "rldk/reward/mean": 3.0, **OVERHEAD}),
        (None, True, {"rldk/train/loss": 0.5, "rldk/reward/mean": 99.0, **OVERHEAD}),
        (Ahead(SEEN, Exchange(), Shield()), True, {"rldk/train/loss": 0.5, "rldk/reward/mean": 99.0, **OVERHEAD}),
    ):
        calls: list[str] = []
        known = step_of(Exchange(), ahead, calls).at_once(Shield(strict=True), idle)
        assert calls == []
        assert known.items() >= expected.items()
        assert "rldk/grad/norm" not in known


def test_several_ranks_exchange_once_and_on_the_training_thread() -> None:
    for ahead in (None, Ahead(SEEN, Exchange(2), Shield(strict=True))):
        calls: list[str] = []
        ranks = Exchange(2)
        step = step_of(ranks, ahead, calls)
        known = step.at_once(Shield(strict=True), device_is_idle=False)
        assert sorted(calls) == ["probe", "quick"]
        beside = threading.Thread(target=step.row, args=(Shield(strict=True),))
        beside.start()
        beside.join()
        assert step.row(Shield(strict=True))[1] == known == whole()
        assert ranks.threads == [threading.current_thread()]
        assert sorted(calls) == ["probe", "quick"]


def test_what_cannot_be_read_is_missing_and_the_rest_is_there() -> None:
    def fails() -> Any:
        raise RuntimeError("cannot be read")

    shield = Shield()
    readings = Readings(Observation(made=fails), [fails, lambda: {"rldk/train/loss": 0.5}], fails)
    step = Step(Exchange(), Part(), readings)
    assert step.at_once(shield, device_is_idle=True) == {}
    assert step.row(shield)[1] == {"rldk/train/loss": 0.5}
    assert shield.faults == 3


def test_nothing_is_no_row() -> None:
    step = Step(Exchange(), Part(), Readings(), overhead=OVERHEAD)
    assert step.at_once(Shield(strict=True), device_is_idle=True) == {}
    assert step.row(Shield(strict=True))[1] == {}


class Distant(InMemoryTracker):
    """One whose rows wait on disk, and that takes none before the end."""

    name: ClassVar[str] = "distant"
    threaded: ClassVar[bool] = True

    def log_rows(self, rows: Sequence[Row]) -> None:
        if not self.answers:
            raise UnavailableError("not yet")
        super().log_rows(rows)

    answers = False


def test_a_training_step_is_on_disk_with_its_verdict_before_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back from there as the next step begins, which is when a kill would have left it so."""
    monkeypatch.setattr("rldk_tracking.step.PATIENCE", 60.0)  # the machine may be busy
    monkeypatch.setattr("rldk_tracking.run.ENOUGH", 60.0)
    tracker, left = Distant(), dict[int, dict[str, float]]()
    spool = tmp_path / "rldk" / "undelivered-distant.jsonl"

    class Killer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            records = [json.loads(line) for line in spool.read_text().splitlines()] if spool.exists() else []
            rows = [record for record in records if record["type"] == "metrics"]
            left.update({record["step"]: record["metrics"] for record in rows})
            assert not state.global_step or state.global_step in left

    callback = RLDKCallback(trackers=[tracker])
    trainer = grpo_trainer(tmp_path, max_steps=6, callbacks=[Killer(), callback])  # asked before the other
    backward = trainer.accelerator.backward
    slept = threading.Event()

    def lasting(*args: Any, **kwargs: Any) -> None:
        backward(*args, **kwargs)
        slept.wait(0.05)  # a device that computes gradients

    trainer.accelerator.backward = lasting
    trainer.train()
    assert set(left) == {1, 2, 3, 4, 5}
    for row in left.values():
        assert len(row) > 70
        assert {"rldk/alerts/firing", "rldk/reward/mean", "rldk/grad/norm"} <= row.keys()
        assert any(key.startswith("rldk/health/") for key in row)
