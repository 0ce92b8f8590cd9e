from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from rldk_tracking import ahead as module
from rldk_tracking.ahead import Ahead
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Merged, Part, Ranks, Schema
from rldk_tracking.readings import Readings, columns_of, reduced
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.row import row_of
from rldk_tracking.sources.base import Observation

MASK = torch.ones(4, 3, dtype=torch.bool)
LOGPROBS = -torch.arange(1.0, 13.0).reshape(4, 3)
SEEN = Observation(
    made=lambda: (
        Rollout(mask=MASK, logprobs=LOGPROBS, ref_logprobs=LOGPROBS - 0.1, scores=torch.tensor([1.0, 3.0, 5.0, 6.0])),
        PolicyUpdate(mask=MASK, new_logprobs=LOGPROBS + 0.01, old_logprobs=LOGPROBS),
    )
)


def ranks(size: int = 1) -> Ranks:
    found = Ranks(Schema(catalogue.ROLLOUT_COLUMNS, catalogue.UPDATE_COLUMNS, catalogue.TAILS, ("rldk/train/loss",)))
    found.world_size = size
    return found


def scalars() -> Part:
    return Part(scalars={"rldk/train/loss": 0.5, "rldk/reward/mean": 99.0})


def test_the_row_is_the_one_that_would_come_afterwards() -> None:
    shield = Shield(strict=True)
    ahead = Ahead(SEEN, ranks(), shield)
    assert not ahead.is_done and ahead.row == {}
    ahead.compute()
    assert ahead.is_done
    afterwards = row_of(ranks().merge(reduced(scalars(), Readings(SEEN, [], None), {}, shield)))
    assert len(afterwards) > 20 and afterwards["rldk/reward/mean"] == 3.75
    merged = ahead.join(ranks().merge(reduced(scalars(), Readings(SEEN, [], None), {}, shield, Part())))
    assert row_of(merged, None, ahead.row) == afterwards
    assert merged.rollout.columns.keys() == columns_of(SEEN, shield).rollout.keys()
    assert merged.scalars == [scalars().scalars]


def test_before_it_is_done_nothing_is_joined() -> None:
    merged = Merged(*(ranks().merge(columns_of(SEEN, Shield())).__dict__.values()))
    assert Ahead(SEEN, ranks(), Shield()).join(merged) is merged


def test_among_several_ranks_the_columns_are_all_that_is_known() -> None:
    ahead = Ahead(SEEN, ranks(2), Shield(strict=True))
    ahead.compute()
    assert not ahead.is_done and ahead.row == {}
    assert ahead.part(Shield(strict=True)).rollout["reward/score"].tolist() == [1.0, 3.0, 5.0, 6.0]
    assert ahead.part(Shield(strict=True)) is ahead.part(Shield(strict=True))


def test_it_belongs_to_the_observation_that_is_made_of_the_same() -> None:
    ahead = Ahead(SEEN, ranks(), Shield())
    assert ahead.belongs_to(Observation({"rldk/train/loss": 1.0}, SEEN.made))
    assert not ahead.belongs_to(Observation({}, lambda: SEEN.made()))


def test_who_needs_columns_that_are_being_computed_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """And computes none of its own."""
    begun, gate, calls = threading.Event(), threading.Event(), []

    def slow(*given: Any) -> Part:
        calls.append(threading.current_thread())
        begun.set()
        gate.wait(5)
        return columns_of(*given)

    monkeypatch.setattr(module, "columns_of", slow)
    ahead = Ahead(SEEN, ranks(2), Shield(strict=True))
    beside = threading.Thread(target=ahead.compute)
    beside.start()
    begun.wait(5)
    threading.Timer(0.2, gate.set).start()
    begin = time.monotonic()
    assert ahead.part(Shield(strict=True)).rollout
    assert time.monotonic() - begin > 0.1
    assert calls == [beside]
    beside.join()


def test_what_cannot_be_read_is_missing_and_the_rest_is_there() -> None:
    shield = Shield()

    def fails() -> Any:
        raise RuntimeError("cannot be read")

    half = Observation(made=lambda: (None, SEEN.made()[1]))
    for observation, expected in ((Observation(made=fails), 0), (half, 1)):
        ahead = Ahead(observation, ranks(), shield)
        ahead.compute()
        assert ahead.is_done
        assert bool(ahead.row) == bool(expected)
    assert shield.faults == 1


def test_between_two_pieces_the_training_passes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it waits for us, this waits for it, unless it is this that the training waits for."""
    monkeypatch.setattr("rldk_tracking.isolation.COURTESY", 60.0)
    training, ahead = Shield(training=True), Ahead(SEEN, ranks(), Shield(strict=True))
    beside = threading.Thread(target=ahead.compute)
    with training.at("an event"):
        beside.start()
        beside.join(0.3)
        assert beside.is_alive() and not ahead.is_done
    beside.join(5)
    assert ahead.is_done
    with training.at("an event of several ranks"):
        other = Ahead(SEEN, ranks(2), Shield(strict=True))
        assert other.part(Shield(strict=True)).rollout.keys() == ahead.part(Shield(strict=True)).rollout.keys()


def test_waiting_ends_with_the_reading_or_with_the_patience() -> None:
    ahead = Ahead(SEEN, ranks(), Shield(strict=True))
    assert not ahead.wait(0.0)
    threading.Timer(0.1, ahead.compute).start()
    assert ahead.wait(60.0) and ahead.is_done
