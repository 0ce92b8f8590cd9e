"""Evaluations of real trainings: at their step, set by set, and out of the step's time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.logs import canonical
from rldk_tracking.trackers.memory import InMemoryTracker

SMALL = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "num_generations": 4,
    "num_generations_eval": 2,
    "beta": 0.0,
}


def train(folder: Path, sets: Any, *functions: Any, **settings: Any) -> tuple[InMemoryTracker, list[dict[str, Any]]]:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], strict=True)
    # The configuration wants a set that it is given with.
    evaluation = {name: settings.pop(name) for name in list(settings) if name.startswith("eval_")}
    trainer: Any = grpo_trainer(
        folder, reward_funcs=list(functions) or [reward], callbacks=[callback], **{**SMALL, **settings}
    )
    for name, value in evaluation.items():
        setattr(trainer.args, name, value)
    trainer.args.eval_strategy = type(trainer.args.eval_strategy)(trainer.args.eval_strategy)
    trainer.state.eval_steps = trainer.args.eval_steps
    trainer.eval_dataset = sets(trainer.train_dataset)
    trainer.train()
    return tracker, trainer.state.log_history


def test_each_stands_at_the_step_at_which_it_was_made_the_last_one_too(tmp_path: Path) -> None:
    settings = {"max_steps": 5, "eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}
    tracker, logged = train(tmp_path, lambda rows: rows.select(range(8)), **settings)
    made = {entry["step"]: entry["eval_reward"] for entry in logged if "eval_reward" in entry}
    assert set(made) >= {0, 2, 4} and dict(tracker.series["rldk/eval/reward"]) == pytest.approx(made)


def test_one_epoch_has_an_evaluation(tmp_path: Path) -> None:
    settings = {"max_steps": -1, "num_train_epochs": 16 / 512, "eval_strategy": "epoch"}
    tracker, logged = train(tmp_path, lambda rows: rows.select(range(8)), **settings)
    made = {entry["step"]: entry["eval_reward"] for entry in logged if "eval_reward" in entry}
    assert len(made) == 1 and dict(tracker.series["rldk/eval/reward"]) == pytest.approx(made)


def test_each_of_several_sets_has_its_own_series_live_and_in_the_log(tmp_path: Path) -> None:
    def sets(rows: Any) -> dict[str, Any]:
        return {"easy": rows.select(range(8)), "hard_ones": rows.select(range(8, 16))}

    tracker, logged = train(tmp_path, sets, max_steps=2, eval_strategy="steps", eval_steps=1)
    found = {name: dict(tracker.series[f"rldk/eval/{name}/reward"]) for name in ("easy", "hard_ones")}
    for name, series in found.items():
        made = {entry["step"]: entry for entry in logged if f"eval_{name}_runtime" in entry}
        assert series == pytest.approx({step: entry["eval_reward"] for step, entry in made.items()})
        assert dict(tracker.series[f"rldk/eval/{name}/loss"]) == pytest.approx(
            {step: entry[f"eval_{name}_loss"] for step, entry in made.items()}
        )
        for step, entry in made.items():
            assert canonical(entry)[f"rldk/eval/{name}/reward"] == pytest.approx(series[step])
    assert not {"rldk/eval/reward", "rldk/eval/loss"} & set(tracker.series)


def test_evaluation_and_saving_are_no_part_of_a_step(tmp_path: Path) -> None:
    def slow(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        if len(completions) == 8:  # of an evaluation
            time.sleep(1.0)
        return reward(prompts, completions)

    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no"}
    tracker, _ = train(tmp_path, lambda rows: rows.select(range(4)), slow, **settings)
    seconds = dict(tracker.series["rldk/throughput/step_seconds"])
    assert set(seconds) == {2, 3, 4} and max(seconds.values()) < 0.9
    assert all(0 < share < 1 for _, share in tracker.series["rldk/throughput/rollout_fraction"])
    speed = dict(tracker.series["rldk/throughput/samples_per_second"])
    assert speed == pytest.approx({step: 16 / value for step, value in seconds.items()})
