"""Every user's trick, trained for real: how many series came, what was said, and that each number is the trainer's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.logs import canonical
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.doubles import DOUBLES, LOGGED, PAGE, SETTINGS, Double, Ran, Said, line, page, spied, train

OPTIMIZER = ("rldk/weight/norm", "rldk/update/ratio/p50", "rldk/grad/norm_clipped_fraction")
BY_NAME = {double.name: double for double in DOUBLES}
STOCK = DOUBLES[0].name


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """The finished training of a double."""
    finished: dict[str, Ran] = {}

    def run(name: str) -> Ran:
        if name not in finished:
            finished[name] = train(BY_NAME[name], tmp_path_factory.mktemp("double"))
        return finished[name]

    return run


@pytest.mark.parametrize("name", BY_NAME)
def test_each_number_is_the_trainers_and_what_lacks_is_said_once(name: str, ran: Callable[[str], Ran]) -> None:
    run = ran(name)
    numbers = list(run.compared())
    assert len(numbers) > 15
    for key, step, value, expected in numbers:
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-6), (key, step)
    lacks = run.of - run.coverage
    assert len(run.words) == (lacks > 0)
    for word in run.words:
        assert (
            f"(trl {trl.__version__}) cannot be read whole: " in word and f"Read: {run.coverage} of {run.of} s" in word
        )
        (sentence,) = run.tracker.tables["rldk/system/coverage"][-1][2][0]
        assert sentence.startswith("Read: ") and "; why: " in sentence
    assert run.trainer.state.global_step == 4


@pytest.mark.parametrize("name", [double.name for double in DOUBLES[1:] if double.is_stock])
def test_what_comes_is_what_comes_of_the_trainer_as_it_is(name: str, ran: Callable[[str], Ran]) -> None:
    run, stock = ran(name), ran(STOCK)
    read_elsewhere = canonical(run.trainer.state.log_history[-2]).keys() if run.words else set()
    compared = 0
    for key in (run.tracker.series.keys() & stock.contract) - read_elsewhere:
        assert dict(run.tracker.series[key]) == pytest.approx(dict(stock.tracker.series[key]), rel=1e-4, abs=1e-6), key
        compared += 1
    assert compared >= run.coverage - len(read_elsewhere) > 0


@pytest.mark.parametrize("name", ["filtered rollouts", "resampled rollouts"])
def test_rewards_are_those_of_the_rows_that_are_trained_on(name: str, ran: Callable[[str], Ran]) -> None:
    run = ran(name)
    logged = {entry["step"]: entry["reward"] for entry in run.trainer.state.log_history if "reward" in entry}
    found = dict(run.tracker.series["rldk/reward/mean"])
    assert found.keys() == logged.keys() == {1, 3}
    assert all(abs(found[step] - logged[step]) > 1e-4 for step in found), "of all that was scored, or scored last"


@pytest.mark.parametrize("double", [d for d in DOUBLES if d.from_log], ids=lambda d: d.name)
def test_the_log_stands_without_a_gap(double: Double, ran: Callable[[str], Ran]) -> None:
    run = ran(double.name)
    for key in double.logged:
        logged = {entry["step"] for entry in run.trainer.state.log_history if LOGGED[key] in entry}
        came = {step for step, _ in run.tracker.series[key]}
        assert came >= {step for step in logged if step >= (double.from_log or 0)}, key


@pytest.mark.parametrize("name", ["replaced optimizer", "own optimizer", STOCK])
def test_the_optimizer_that_steps_is_looked_at(name: str, ran: Callable[[str], Ran]) -> None:
    for key in OPTIMIZER:
        assert [step for step, _ in ran(name).tracker.series[key]] == [1, 2, 3, 4], key


def test_two_trainers_one_after_the_other_are_each_read(tmp_path: Path, ran: Callable[[str], Ran]) -> None:
    for number in (1, 2):
        second = train(DOUBLES[0], tmp_path / str(number))
        assert (second.coverage, second.words) == (second.of, [])
        for key in second.contract:
            assert dict(second.tracker.series[key]) == pytest.approx(dict(ran(STOCK).tracker.series[key])), key


def test_one_trainer_that_trains_again_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from trl import GRPOTrainer

    tracker = InMemoryTracker()
    trainer: Any = grpo_trainer(tmp_path, max_steps=2, callbacks=[RLDKCallback(trackers=[tracker])], **SETTINGS)
    trainer.__class__ = spied(GRPOTrainer)
    for _ in range(2):
        trainer.train()
    assert tracker.series["rldk/system/coverage"] == [(2, 1.0), (2, 1.0)]
    assert "cannot be read whole" not in caplog.text


def test_a_fault_of_the_trainers_own_passes_through(tmp_path: Path) -> None:
    def broken(kind: Any) -> Any:
        class Broken(kind):  # type: ignore[misc]
            def chosen(self, inputs: Any, generate: Any) -> Any:
                if self.state.global_step == 2:
                    raise KeyError("theirs")
                return generate(inputs)

        return Broken

    with pytest.raises(KeyError, match="theirs"):
        train(Double("broken", "", broken), tmp_path)


def test_said_holds_what_is_said() -> None:
    import logging

    said, logger = Said(), logging.getLogger("rldk_tracking.x")
    logger.addHandler(said)
    logger.info("nothing")
    logger.warning("a %s", "word")
    logger.removeHandler(said)
    assert said.lines == ["a word"]


def test_the_page_says_what_comes(ran: Callable[[str], Ran]) -> None:
    """`python -m tests.runs.doubles` writes it anew."""
    if not trl.__version__.startswith("1.12."):
        pytest.skip("the page is of TRL 1.12")
    lines = [line(ran(double.name)) for double in DOUBLES]
    stored = PAGE.read_text(encoding="utf-8")
    assert page(lines) == stored
    assert not [one for one in lines if one.split(" | ")[5] == "none"], "series are missing, and no word"
