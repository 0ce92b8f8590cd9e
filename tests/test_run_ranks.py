"""A run whose device still computes when a step is over, and one among several ranks; the exchange is a fake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch

from rldk_tracking.journal.judge import SAVE, STOP, Judge
from rldk_tracking.metrics.columns import Table
from rldk_tracking.monitors import training as monitors_training
from rldk_tracking.probes.base import Probe, Training
from rldk_tracking.ranks import Merged, Part, Schema
from rldk_tracking.run import Run
from tests.test_run import LENGTH, LOSS, NAN, Rows, run_of, step_of
from tests.test_run_alerts import long_rule


class Exchange:
    """Stands for `Ranks`, and notes what a run asks of it.

    Attributes:
        calls: "start", "merged" and "agree", in order.
        sent: what this rank delivered of each step.
        decided: the flags that rank 0 is said to have; None where this rank's own count.
    """

    rank, world_size, is_alone_of, waited = 0, 1, 0, 0.0
    decided: int | None = None
    made: ClassVar[list[Exchange]]

    def __init__(self, schema: Schema, device: torch.device | None = None, rows: int = 512, **_: object) -> None:
        self.rows = rows
        self.device = device
        self.calls: list[str] = []
        self.sent: list[dict[str, float]] = []
        self.agreed: list[int] = []
        self.made.append(self)

    @property
    def writes(self) -> bool:
        return self.rank == 0

    @property
    def job_size(self) -> int:
        return self.world_size

    def start(self, part: Part) -> Exchange:
        self.calls.append("start")
        self.sent.append({key: float(value) for key, value in part.scalars.items()})
        return self

    ready = True

    def merged(self) -> Merged | None:
        self.calls.append("merged")
        return Merged(Table(), Table(), self.sent[-1], []) if self.rank == 0 else None

    def agree(self, flags: int) -> int:
        self.calls.append("agree")
        self.agreed.append(flags)
        return flags if self.decided is None else self.decided


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> type[Exchange]:
    """The class; set its `rank` and `world_size` before the run begins. `made` holds its objects."""

    class Here(Exchange):
        made: ClassVar[list[Exchange]] = []

    monkeypatch.setattr("rldk_tracking.run.Ranks", Here)
    return Here


def on_cuda(**settings: Any) -> tuple[Run, Rows]:
    return run_of(Training(device=torch.device("cuda")), strict=True, **settings)


def steps(tracker: Rows) -> list[int]:
    return [step for step, _ in tracker.rows]


# A device that still computes.


@pytest.mark.parametrize(
    "event",
    [
        lambda run: run.before_step(1),
        lambda run: run.saved(1),
        lambda run: run.state(),
        lambda run: run.extra_row(1, {}),
        lambda run: run.close("finished"),
        lambda run: run.close("crashed"),
    ],
    ids=["before_step", "saved", "state", "extra_row", "finished", "crashed"],
)
def test_the_row_is_written_at_the_next_event(exchange: type[Exchange], event: Callable[[Run], None]) -> None:
    run, tracker = on_cuda()
    run.finish(step_of(1))
    assert exchange.made[0].calls == ["start"] and tracker.rows == []
    event(run)
    assert exchange.made[0].calls == ["start", "merged", "agree"]
    assert steps(tracker) == [1] and tracker.rows[0][1][LOSS] == 1.0
    run.close("finished")
    assert steps(tracker) == [1], "and never twice"


def test_the_next_step_writes_it_too_and_all_stay_in_order(exchange: type[Exchange]) -> None:
    run, tracker = on_cuda()
    for step in range(1, 6):
        run.finish(step_of(step))
        assert steps(tracker) == list(range(1, step))
    run.close("finished")
    assert steps(tracker) == [1, 2, 3, 4, 5] and tracker.series[LOSS] == [(n, float(n)) for n in range(1, 6)]


def test_a_step_that_was_logged_is_written_at_once(exchange: type[Exchange]) -> None:
    """The trainer has waited for its device, to log."""
    run, tracker = on_cuda()
    run.finish(step_of(1))
    run.finish(step_of(2, logs={"loss": 0.5}))
    assert steps(tracker) == [1, 2]
    run.close("finished")
    assert steps(tracker) == [1, 2]


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("mps")])
def test_elsewhere_every_step_is_written_at_once(exchange: type[Exchange], device: torch.device | None) -> None:
    run, tracker = run_of(Training(device=device), strict=True)
    run.finish(step_of(1))
    assert steps(tracker) == [1] and exchange.made[0].device == device
    run.close("finished")


def test_an_evaluation_comes_after_the_row_of_its_step(exchange: type[Exchange]) -> None:
    run, tracker = on_cuda()
    run.finish(step_of(1))
    run.extra_row(1, {"rldk/eval/loss": 2.0})
    assert steps(tracker) == [1, 1]
    assert LOSS in tracker.rows[0][1] and tracker.rows[1][1].keys() >= {"rldk/eval/loss"}
    run.close("finished")


def test_a_stop_is_known_at_the_event_that_reads_the_row(exchange: type[Exchange]) -> None:
    run, _ = on_cuda(on_critical="stop")
    run.finish(step_of(1, {NAN: 2.0}))
    assert not run.should_stop
    run.before_step(1)
    assert run.should_stop
    run.close("stopped")


def test_what_cannot_be_read_from_the_device_costs_its_step_alone(
    exchange: type[Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, tracker = run_of(Training(device=torch.device("cuda")))
    monkeypatch.setattr(exchange, "merged", lambda self: 1 // 0)
    run.finish(step_of(1))
    with run.shield.at("on_step_begin"):
        run.before_step(1)
    monkeypatch.undo()
    monkeypatch.setattr("rldk_tracking.run.Ranks", exchange)
    run.finish(step_of(2))
    run.close("finished")
    assert steps(tracker) == [2] and run.shield.faults == 1


# Several ranks.


class Broken(Probe):
    """Finds weights that are no numbers, before each step."""

    rows_per_rank = 48

    def before_step(self, step: int) -> Mapping[str, float]:
        return {NAN: 3.0, LENGTH: 1.0}


def test_between_two_steps_nothing_is_exchanged_and_what_was_found_goes_into_the_next_row(
    exchange: type[Exchange],
) -> None:
    exchange.world_size = 2
    run, tracker = run_of(strict=True)
    run.add_probes([Broken()])
    run.before_step(0)
    (ranks,) = exchange.made
    assert ranks.calls == [] and tracker.rows == [] and ranks.rows == 48
    run.finish(step_of(1, {LOSS: 1.0, LENGTH: 7.0}))
    assert tracker.rows[0][1].items() >= {LOSS: 1.0, NAN: 3.0, LENGTH: 7.0}.items(), "the step's own numbers stand"
    run.finish(step_of(2))
    assert NAN not in tracker.rows[1][1], "it was of the step before"
    run.close("finished")


def test_each_rank_says_how_long_it_waited(exchange: type[Exchange]) -> None:
    exchange.world_size, exchange.waited = 2, 0.25
    run, _ = run_of(strict=True)
    run.finish(step_of(1, waited_seconds=0.5))
    assert exchange.made[0].sent[0]["rldk/system/rank_spread/seconds"] == 0.75
    run.close("finished")


def test_alone_nothing_is_said_of_waiting(exchange: type[Exchange]) -> None:
    run, _ = run_of(strict=True)
    run.finish(step_of(1, waited_seconds=0.5))
    assert "rldk/system/rank_spread/seconds" not in exchange.made[0].sent[0]
    run.close("finished")


def test_other_ranks_take_part_and_write_nothing(exchange: type[Exchange]) -> None:
    exchange.rank, exchange.world_size = 1, 2
    run, tracker = run_of(strict=True, on_critical="stop")
    run.finish(step_of(1, {NAN: 1.0}))
    run.extra_row(1, {"rldk/eval/loss": 1.0})
    run.close("finished")
    assert exchange.made[0].calls == ["start", "merged", "agree"]
    assert (tracker.rows, tracker.statuses, tracker.alerts, run.publisher.alerts) == ([], [], [], [])
    assert not run.should_stop, "that is for rank 0 to say"


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("flags", "stops", "saves"), [(STOP, True, False), (SAVE, False, True), (3, True, True)])
def test_every_rank_does_what_rank_0_decided(
    exchange: type[Exchange], rank: int, flags: int, stops: bool, saves: bool
) -> None:
    exchange.rank, exchange.world_size, exchange.decided = rank, 2, flags
    run, _ = run_of(strict=True)
    run.finish(step_of(1))
    assert (run.should_stop, run.take_save()) == (stops, saves)
    run.close("finished")


def test_rank_0_tells_the_others_and_asks_once(exchange: type[Exchange]) -> None:
    exchange.world_size = 2
    run, _ = run_of(strict=True, rules=[long_rule("save")])
    for step, length in ((1, 1.0), (2, 9.0), (3, 9.0)):
        run.finish(step_of(step, {LENGTH: length}))
    assert exchange.made[0].agreed == [0, SAVE, 0]
    assert run.take_save() and not run.take_save() and not run.should_stop
    run.close("finished")


def test_what_was_found_between_two_steps_is_acted_on_in_the_next(exchange: type[Exchange]) -> None:
    """All ranks must do the same in the same step, and only rank 0 has judged it."""
    exchange.world_size = 2
    run, _ = run_of(strict=True, on_critical="stop")
    run.finish(step_of(1))
    run.extra_row(1, {NAN: 1.0})
    assert run.stop is not None and not run.should_stop
    run.finish(step_of(2))
    assert exchange.made[0].agreed == [0, STOP] and run.should_stop
    run.close("stopped")


def test_a_fault_in_judging_leaves_no_rank_waiting(
    exchange: type[Exchange], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.world_size = 2
    run, _ = run_of()
    monkeypatch.setattr(Judge, "update", lambda *given: 1 // 0)
    run.finish(step_of(1))
    assert exchange.made[0].calls == ["start", "merged", "agree"] and "judging a step" in caplog.text
    run.close("finished")


def test_a_training_that_was_broken_off_exchanges_nothing(exchange: type[Exchange]) -> None:
    """The other ranks may be gone."""

    class Ending(Probe):
        def end(self) -> Mapping[str, float]:
            return {"rldk/checkpoint/score": 1.0}

    exchange.world_size = 2
    run, tracker = on_cuda()
    run.add_probes([Ending()])
    run.finish(step_of(1))
    run.close("crashed")
    assert exchange.made[0].calls == ["start"]
    assert tracker.rows == [] and tracker.statuses[-1][1] == "crashed"


def test_the_last_step_is_exchanged_where_all_ranks_end(exchange: type[Exchange]) -> None:
    exchange.world_size = 2
    run, tracker = on_cuda()
    run.finish(step_of(1))
    run.close("finished")
    assert exchange.made[0].calls == ["start", "merged", "agree"] and steps(tracker) == [1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_second_train_has_a_new_run_on_every_rank(exchange: type[Exchange], rank: int) -> None:
    exchange.rank, exchange.world_size = rank, 2

    class Trainer: ...

    trainer = Trainer()
    first = monitors_training.run_of(trainer, lambda: run_of()[0])
    first.before_step(0)
    second = monitors_training.run_of(trainer, lambda: run_of()[0])
    assert second is not first and first.closed and not second.closed


def test_ppo_on_several_ranks_is_asked_for_no_checkpoint(exchange: type[Exchange]) -> None:
    class Stubborn(Probe):
        honours_stop = False

    for size, stubborn, expected in ((1, True, True), (2, True, False), (2, False, True)):
        exchange.world_size = size
        run, _ = run_of(strict=True)
        run.add_probes([Stubborn()] if stubborn else [Probe()])
        run.before_step(0)
        assert (run.can_save, run.probes.honours_stop) == (expected, not stubborn)
        run.close("finished")


def test_who_stops_without_an_alert_of_its_own_says_that_another_rank_wanted_it(exchange: type[Exchange]) -> None:
    from rldk_tracking.isolation import TrainingStopped

    exchange.rank, exchange.world_size, exchange.decided = 1, 2, STOP
    run, _ = run_of()
    run.finish(step_of(1))
    with pytest.raises(TrainingStopped, match="step 1 by another rank"):
        run.raise_stop(1)
    assert run.closed
