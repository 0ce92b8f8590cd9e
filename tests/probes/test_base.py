"""What a probe is given, and numbers that may go into a row."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import Table
from rldk_tracking.probes.base import Probe, ProbeSet, StepData, Training, is_number
from rldk_tracking.probes.checkpoints import CheckpointProbe
from rldk_tracking.probes.optimizer import OptimizerProbe
from rldk_tracking.probes.rollouts import RolloutProbe
from rldk_tracking.ranks import Merged


def test_a_probe_may_leave_every_method_as_it_is() -> None:
    probe, data = Probe(), StepData(1)
    assert probe.reads(Training())
    probe.begin(Training())
    assert probe.before_step(0) == {}
    probe.collect(data)
    assert data == StepData(1)
    assert probe.derive(1, {"a": 1.0}, Merged(Table(), Table(), {}, [])) == {}
    assert probe.state() == {}
    probe.load_state({})
    probe.saved(1)
    assert probe.end() == probe.late_rows() == {}
    assert probe.honours_stop and probe.rows_per_rank == 0


def test_numbers_are_added_and_replaced() -> None:
    data = StepData(1)
    data.add({"a": 1.0, "b": 2.0})
    data.add({"b": 3.0, "c": torch.tensor([[4.0]])})
    assert {key: float(value) for key, value in data.scalars.items()} == {"a": 1.0, "b": 3.0, "c": 4.0}


def test_a_number_that_is_there_already_may_stand() -> None:
    data = StepData(1)
    data.add({"a": 1.0})
    data.add({"a": 2.0, "b": 3.0}, override=False)
    assert data.scalars == {"a": 1.0, "b": 3.0}


def test_what_is_none_is_left_out() -> None:
    data = StepData(1)
    data.add({"a": "1.0", "b": None, "c": [1.0], "d": torch.ones(2), "e": torch.tensor(1j), "f": math.nan})
    assert list(data.scalars) == ["f"], "one that is not finite is for the row to leave out"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True),
        (0.5, True),
        (torch.tensor(3), True),
        (torch.ones(1, 1), True),
        (torch.ones(0), False),
        (torch.ones(2), False),
        (torch.tensor(1 + 1j), False),
        ("1", False),
        (None, False),
        ({}, False),
    ],
)
def test_what_a_number_is(value: object, expected: bool) -> None:
    assert is_number(value) is expected


def test_steps_do_not_share_what_was_seen() -> None:
    one, two = StepData(1), StepData(2)
    one.add({"a": 1.0})
    assert two.scalars == {}


def test_a_training_cannot_be_changed_and_drops_what_nobody_shows() -> None:
    training = Training()
    training.publish("log_table", "key", [], [], 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        training.model = object()  # type: ignore[misc]


class Counter(Probe):
    def __init__(self) -> None:
        self.count = 0

    def state(self) -> dict[str, int]:
        return {"count": self.count} if self.count else {}

    def load_state(self, state: Any) -> None:
        self.count = int(state["count"])


class Choosy(Counter):
    def reads(self, training: Training) -> bool:
        return training.trainer is not None

    def begin(self, training: Training) -> None:
        self.count = 1


def test_a_probe_without_anything_to_look_at_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    shield = Shield()
    probes = ProbeSet(shield)
    first, later = Choosy(), Choosy()
    assert probes.add([first, later], Training()) == list(probes) == [] and (first.count, probes.state()) == (0, {})
    assert probes.add([later], Training(trainer=object())) == list(probes) == [later] and later.count == 1
    assert caplog.text == "" and shield.faults == 0


@pytest.mark.parametrize("broken", [{}, {"probes": None}, {"probes": {"Counter": {}}}, {"probes": {"Counter": 3}}, []])
def test_states_are_stored_by_type_and_a_broken_one_costs_itself(broken: Any) -> None:
    before, after = ProbeSet(Shield()), ProbeSet(Shield())
    (counter,) = before.add([Counter()], Training())
    assert isinstance(counter, Counter) and before.state() == {}
    counter.count = 5
    (other,) = after.add([Counter()], Training())
    after.load_state(broken)
    assert isinstance(other, Counter) and other.count == 0
    after.load_state({"version": 1, "probes": before.state()})
    assert other.count == 5


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        (OptimizerProbe("standard"), OptimizerProbe("full"), "OptimizerProbe: level='standard' of the first is used"),
        (RolloutProbe(), RolloutProbe(log_samples=True), "log_samples=False of the first is used, log_samples=True"),
        (
            CheckpointProbe(),
            CheckpointProbe("light", keep_weights=False),
            "level='standard', keep_weights=True of the first is used, level='light', keep_weights=False of another",
        ),
        (OptimizerProbe("full"), OptimizerProbe("full"), ""),
        (CheckpointProbe(reference="."), CheckpointProbe(reference="."), ""),
    ],
)
def test_options_that_are_not_used_are_named(
    first: Probe, later: Probe, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    probes = ProbeSet(Shield(strict=True))
    for given in (first, later, first):
        assert probes.add([given], Training()) == [first]
    assert len(caplog.records) == bool(said) and said in caplog.text
