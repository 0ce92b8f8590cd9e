"""Names outside the catalogue: which are read, how they may be spelt, and what is said of those that never come."""

from __future__ import annotations

import math

import pytest

from rldk_tracking.sources.own_names import MOST_KEPT, WAIT_ENTRIES, OwnNames, is_own


def test_only_what_is_asked_for_is_read_under_the_name_that_asks() -> None:
    own = OwnNames(["env/score", "train/loss_a", "rldk/reward/mean"])
    assert own.read({"env/score": 2, "loss_a": "3.5", "other": 1.0, "rldk/reward/mean": 1.0}) == {
        "env/score": 2.0,
        "train/loss_a": 3.5,
    }
    assert own.missing == set() and not is_own("rldk/reward/mean")
    assert own.read({"env/score": None, "loss_a": "text"}) == {} == own.read({})
    assert math.isnan(own.read({"env/score": math.nan})["env/score"])


@pytest.mark.parametrize(
    ("asked", "logged"),
    [("a/b", "train/a/b"), ("train/a/b", "a/b"), ("eval/a", "eval_a"), ("eval_a", "eval/a"), ("train/a", "train/a")],
)
def test_a_name_as_the_trainer_or_as_its_tracker_has_it(asked: str, logged: str) -> None:
    assert OwnNames([asked]).read({logged: 1.0}) == {asked: 1.0}


def test_a_name_that_never_comes_is_said_when_enough_was_logged() -> None:
    own = OwnNames(["tools/fails"])
    asking = {"team.tools": ["tools/fails"]}
    for _ in range(WAIT_ENTRIES):
        assert own.never(asking) == []
        own.read({"tools/failures": 1.0, "train/loss": 2.0})
    own.read({"rldk/grad/norm": 1.0})  # no log of the trainer's
    assert own.never(asking) == ["team.tools reads 'tools/fails', which was never logged; near: tools/failures"]
    own.read({"tools/fails": 1.0})
    assert own.never(asking) == []


def test_an_evaluations_name_waits_for_the_first_evaluation() -> None:
    own, asking = OwnNames(["eval/score"]), {"a chart": ["eval/score"]}
    for _ in range(WAIT_ENTRIES + 1):
        own.read({"loss": 1.0})
    assert own.never(asking) == []
    own.read({"eval_loss": 1.0})
    assert own.never(asking) == ["a chart reads 'eval/score', which was never logged"]


def test_a_training_that_ends_early_waits_for_nothing() -> None:
    own, asking = OwnNames(["eval_score"]), {"a.b": ["eval_score"]}
    own.read({"loss": 1.0}, is_last=True)
    assert own.never(asking) == ["a.b reads 'eval_score', which was never logged"]
    assert OwnNames(["x"], is_over=True).never({"a.b": ["x"]}) == ["a.b reads 'x', which was never logged"]


def test_thousands_of_odd_names_take_bounded_memory() -> None:
    own = OwnNames(["x"])
    for step in range(5 * MOST_KEPT):
        assert own.read({f"odd/{step}": 1.0}) == {}
    assert len(own._logged) <= MOST_KEPT + 1
