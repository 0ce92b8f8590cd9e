"""Real GRPO trainings of the shapes that other packages give TRL's trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.task import reward
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.trackers.memory import InMemoryTracker

LOGGED = {
    "rldk/reward/mean": "reward",
    "rldk/length/mean": "completions/mean_length",
    "rldk/length/truncated_fraction": "completions/clipped_ratio",
    "rldk/kl/ref_k3": "kl",
    "rldk/policy/entropy": "entropy",
}
"""Key to the name that the trainer logs it under."""


def trained(folder: Path, kind: type | None = None, steps: int = 3, **settings: Any) -> tuple[InMemoryTracker, Any]:
    tracker = InMemoryTracker()
    settings = {"per_device_train_batch_size": 8, "num_generations": 4, "beta": 0.04, "max_steps": steps, **settings}
    trainer: Any = grpo_trainer(folder, reward_funcs=[reward], callbacks=[RLDKCallback(trackers=[tracker])], **settings)
    if kind is not None:
        trainer.__class__ = kind
    trainer.train()
    return tracker, trainer


def logged(trainer: Any, name: str) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


def base() -> Any:
    from trl import GRPOTrainer

    return GRPOTrainer


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("rldk_tracking")]


def test_micro_batches_of_another_form_leave_what_the_log_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As ms-swift's trainer: lists of micro-batches, in which prompts and completions are one row."""

    class Swift(base()):  # type: ignore[misc]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            rows = super()._generate_and_score_completions(inputs)
            self.whole = rows
            return [{"input_ids": rows["prompt_ids"], "completion_mask": rows["completion_mask"]}]

        def _prepare_inputs(self, batch: Any) -> Any:
            self.turn = getattr(self, "turn", -1) + 1
            if self.turn % 2 == 0:
                self._generate_and_score_completions(batch)
            rows = slice(0, 8) if self.turn % 2 == 0 else slice(8, 16)
            return {
                f"own_{name}": value[rows] if isinstance(value, Tensor) and value.ndim else value
                for name, value in self.whole.items()
            }

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return base()._compute_loss(self, model, {k.removeprefix("own_"): v for k, v in inputs.items()})

    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        tracker, trainer = trained(tmp_path, Swift)
    for key, name in LOGGED.items():
        assert dict(tracker.series[key]) == pytest.approx(logged(trainer, name)), key
        assert set(logged(trainer, name)) == {1, 2, 3}
    assert "rldk/policy/clip_fraction" not in tracker.series, "which the log has as 0, since nothing can be clipped"
    sentences = [line for line in said(caplog) if "cannot be read whole" in line]
    assert len(sentences) == 2
    assert "returns a list without prompt_ids, completion_ids (no rldk/advantage/" in sentences[0]
    assert "its loss is given a dict without prompt_ids, completion_ids, completion_mask" in sentences[1]


def test_what_fails_in_every_step_leaves_what_the_log_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a later version may return what cannot be foreseen."""
    monkeypatch.setattr(GroupSource, "_keep_generation", lambda self, output: output["nobody's"])
    monkeypatch.setattr(GroupSource, "_trained_on_first", lambda self, trainer, passes: [])
    with caplog.at_level(logging.WARNING, logger="rldk_tracking"):
        tracker, trainer = trained(tmp_path)
    for key in ("rldk/reward/mean", "rldk/length/mean", "rldk/kl/ref_k3"):
        expected = {step: value for step, value in logged(trainer, LOGGED[key]).items() if step >= 2}
        assert dict(tracker.series[key]) == pytest.approx(expected), key
    assert sum("no completions came of it in 2 steps" in line for line in said(caplog)) == 1


def test_a_buffer_that_is_used_up_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As axolotl's trainer, which takes micro-batches out of its buffer: all numbers are TRL's own trainer's."""

    class Popping(base()):  # type: ignore[misc]
        kept = None

        def _prepare_inputs(self, batch: Any) -> Any:
            self._buffered_inputs = self.kept
            inputs = super()._prepare_inputs(batch)
            self._buffered_inputs, self.kept = [], self._buffered_inputs
            return inputs

    tracker, _ = trained(tmp_path / "popping", Popping, num_iterations=2)
    plain, _ = trained(tmp_path / "plain", num_iterations=2)
    assert not [line for line in said(caplog) if "read" in line]
    keys = [key for key in plain.series if not key.startswith(("rldk/throughput/", "rldk/resources/", "rldk/system/"))]
    assert {"rldk/policy/clip_fraction", "rldk/advantage/std", "rldk/kl/ref_k1", "rldk/policy/ratio_max"} <= set(keys)
    for key in keys:
        assert dict(tracker.series[key]) == dict(plain.series[key]), key
