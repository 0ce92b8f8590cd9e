"""Rewards of real GRPO trainings in which something is unusual: what functions return, their names, other rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker

SMALL = {"per_device_train_batch_size": 8, "num_generations": 4, "beta": 0.0}
"""16 completions of 4 prompts a step."""


def share_of_even(completions: Sequence[str], **_: Any) -> list[float]:
    return [sum(c in "02468" for c in text) / max(1, len(text)) for text in completions]


class Trained(TrainerCallback):
    """Prompts and completions that each step trained on, decoded from the trainer's buffer."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.rows: dict[int, list[tuple[str, str]]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        decode = self.trainer.processing_class.batch_decode
        self.rows[state.global_step] = [
            pair
            for batch in self.trainer._buffered_inputs
            for pair in zip(
                decode(batch["prompt_ids"], skip_special_tokens=True),
                decode(batch["completion_ids"], skip_special_tokens=True),
                strict=True,
            )
        ]


def run(folder: Path, steps: int, *functions: Any, trainer_class: type | None = None, **settings: Any) -> Any:
    tracker, trained = InMemoryTracker(), Trained()
    callback = RLDKCallback(trackers=[tracker], strict=True)
    settings = {**SMALL, "max_steps": steps, **settings}
    trainer: Any = grpo_trainer(folder, reward_funcs=list(functions), callbacks=[callback, trained], **settings)
    if trainer_class is not None:
        trainer.__class__ = trainer_class
    trained.trainer = trainer
    trainer.train()
    return callback, tracker, trained, trainer


def test_nan_of_one_function_among_several_is_seen(tmp_path: Path) -> None:
    def judge(completions: Sequence[str], **_: Any) -> list[float]:
        return [math.nan if row % 4 == 0 else 1.0 for row in range(len(completions))]

    callback, tracker, _, _ = run(tmp_path, 2, reward, judge)
    assert dict(tracker.series["rldk/nan/reward"]) == {1: 4.0, 2: 4.0}
    assert dict(tracker.series["rldk/reward/function/judge/not_finite"]) == {1: 4.0, 2: 4.0}
    assert dict(tracker.series["rldk/reward/function/reward/not_finite"]) == {1: 0.0, 2: 0.0}
    assert dict(tracker.series["rldk/reward/function/judge/none_fraction"]) == {1: 0.0, 2: 0.0}
    assert [alert.rule for alert in callback.alerts if alert.severity == "critical"] == ["nan.reward"]


def test_a_function_that_is_nan_in_every_completion_is_seen(tmp_path: Path) -> None:
    async def judge(completions: Sequence[str], **_: Any) -> list[float]:
        return [math.nan] * len(completions)

    callback, tracker, _, _ = run(tmp_path, 1, reward, judge)
    assert dict(tracker.series["rldk/nan/reward"]) == {1: 16.0}
    assert [alert.rule for alert in callback.alerts] == ["nan.reward"]


def test_none_is_no_fault(tmp_path: Path) -> None:
    def judge(completions: Sequence[str], **_: Any) -> list[float | None]:
        return [None if row % 8 == 0 else len(text) / 10 for row, text in enumerate(completions)]

    callback, tracker, _, _ = run(tmp_path, 2, judge)
    assert dict(tracker.series["rldk/nan/reward"]) == {1: 0.0, 2: 0.0}
    assert dict(tracker.series["rldk/reward/function/judge/none_fraction"]) == {1: 0.125, 2: 0.125}
    assert callback.alerts == []


def test_a_function_that_never_scores_is_named(tmp_path: Path) -> None:
    def lost(completions: Sequence[str], **_: Any) -> list[None]:
        return [None] * len(completions)

    overrides = {"reward.silent_function": {"rollouts": 3}}
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], strict=True, overrides=overrides)
    trainer = grpo_trainer(tmp_path, reward_funcs=[reward, lost], callbacks=[callback], **{**SMALL, "max_steps": 3})
    trainer.train()
    (alert,) = [alert for alert in callback.alerts if alert.rule == "reward.silent_function"]
    assert (alert.step, alert.severity) == (3, "warning") and alert.message.startswith("lost scored nothing in 3")
    assert alert.key == "rldk/reward/function/lost/none_fraction"


def test_two_functions_of_one_name_are_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make(score: Any) -> Any:
        def reward_func(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
            return list(score(prompts=prompts, completions=completions))

        return reward_func

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        callback, tracker, trained, trainer = run(
            tmp_path,
            3,
            make(reward),
            make(lambda completions, **_: [1.0] * len(completions)),
            reward_weights=[1.0, 0.5],
        )
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "reward" in entry}
    for step, rows in trained.rows.items():
        earned = reward(*zip(*rows, strict=True))
        at = {key: value for key, points in tracker.series.items() for number, value in points if number == step}
        assert at["rldk/reward/mean"] == pytest.approx(logged[step]["reward"], rel=1e-5)
        assert at["rldk/reward/mean"] == pytest.approx(sum(earned) / len(earned) + 0.5, rel=1e-5)
        assert at["rldk/reward/group_tied_fraction"] == pytest.approx(logged[step]["frac_reward_zero_std"])
        assert at["rldk/reward/function/reward_func/mean"] == pytest.approx(sum(earned) / len(earned), rel=1e-5)
        assert at["rldk/reward/function/reward_func-2/mean"] == 1.0
        assert at["rldk/reward/function/reward_func-2/weight"] == 0.5
    assert "reward.no_signal" not in {alert.rule for alert in callback.alerts}
    said = [record.getMessage() for record in caplog.records if "one name" in record.getMessage()]
    assert len(said) == 1 and "reward_func, reward_func" in said[0]


def base() -> type:
    from trl import GRPOTrainer

    return GRPOTrainer


def check_rows(tracker: InMemoryTracker, trained: Trained) -> None:
    """The reward of what was trained on, from its texts alone."""
    for step, rows in trained.rows.items():
        earned = reward(*zip(*rows, strict=True))
        at = {key: value for key, points in tracker.series.items() for number, value in points if number == step}
        assert at["rldk/reward/mean"] == pytest.approx(sum(earned) / len(earned), rel=1e-5), step
        assert at["rldk/reward/max"] == pytest.approx(max(earned))
        lengths = torch.tensor([float(len(text)) for _, text in rows])
        assert at["rldk/reward/function/reward/mean"] == at["rldk/reward/mean"]
        assert at["rldk/length/mean"] >= float(lengths.mean())


def test_a_subclass_that_samples_twice_and_keeps_halves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Resampling(base()):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            first, second = (super(Resampling, self)._generate_and_score_completions(inputs) for _ in range(2))
            half = len(inputs) // 2
            return joined_rows(first, slice(0, half), second, slice(half, None))

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        _, tracker, trained, _ = run(tmp_path, 3, reward, trainer_class=Resampling)
    check_rows(tracker, trained)
    assert [record for record in caplog.records if "cannot be read whole" in record.getMessage()] == []


def joined_rows(first: dict[str, Any], some: slice, second: dict[str, Any], others: slice) -> dict[str, Any]:
    """Rows of two outputs, padded to one width: prompts on the left, completions on the right."""
    output = dict(first)
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"):
        one, two = first[name][some], second[name][others]
        if one.ndim == 2:
            width = max(one.shape[1], two.shape[1])
            left = name.startswith("prompt")
            one, two = (
                torch.nn.functional.pad(t, (width - t.shape[1], 0) if left else (0, width - t.shape[1]))
                for t in (one, two)
            )
        output[name] = torch.cat([one, two])
    return output


def test_a_subclass_that_replaces_rows_by_old_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a replay buffer does: what comes from an earlier step was not scored in this one."""

    class Replaying(base()):  # type: ignore[misc]
        kept: Any = None

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            fresh = super()._generate_and_score_completions(inputs)
            old, self.kept = self.kept, fresh
            return fresh if old is None else joined_rows(old, slice(0, 4), fresh, slice(4, None))

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        _, tracker, _, trainer = run(tmp_path, 3, reward, trainer_class=Replaying)
    said = [record.getMessage() for record in caplog.records if "cannot be read whole" in record.getMessage()]
    assert len(said) == 1 and "which score is whose" in said[0]
    logged = {entry["step"]: entry["reward"] for entry in trainer.state.log_history if "reward" in entry}
    assert dict(tracker.series["rldk/reward/mean"]) == pytest.approx(logged)
    assert {step for step, _ in tracker.series["rldk/reward/p50"]} == {1}


def test_a_loss_that_goes_around_the_method_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fused(base()):  # type: ignore[misc]
        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            own = self._get_per_token_logps_and_entropies
            self._get_per_token_logps_and_entropies = super()._get_per_token_logps_and_entropies
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self._get_per_token_logps_and_entropies = own

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        settings = {"num_iterations": 2, "epsilon": 0.02, "learning_rate": 1e-2}
        _, tracker, _, trainer = run(tmp_path, 4, reward, trainer_class=Fused, **settings)
    said = [record.getMessage() for record in caplog.records if "cannot be read whole" in record.getMessage()]
    assert len(said) == 1 and "its loss does not call" in said[0]
    logged = {entry["step"]: entry for entry in trainer.state.log_history if "entropy" in entry}
    entropy = {step: entry["entropy"] for step, entry in logged.items()}
    clipped = {step: entry["clip_ratio/region_mean"] for step, entry in logged.items()}
    assert dict(tracker.series["rldk/policy/entropy"]) == pytest.approx(entropy) and set(entropy) == {1, 2, 3, 4}
    assert dict(tracker.series["rldk/policy/clip_fraction"]) == pytest.approx(clipped) and max(clipped.values()) > 0
    assert "rldk/policy/ratio_mean" not in tracker.series
