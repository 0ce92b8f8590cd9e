"""Trainers without reinforcement learning: loss, gradients, weights and resources, and nothing that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.model import tiny_model
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.conftest import Logs, Ran

ALWAYS = (
    "rldk/train/loss",
    "rldk/grad/norm",
    "rldk/weight/norm",
    "rldk/update/ratio/p50",
    "rldk/update/learning_rate",
    "rldk/nan/weights",
    "rldk/nan/gradients",
    "rldk/resources/host_rss_gib",
    "rldk/health/score",
)


class WithMemory(Trainer):  # type: ignore[misc]
    """It logs numbers of its own beside everything, evaluations too, as axolotl's trainer."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, "memory/max_active (GiB)": 0.5}, *args, **kwargs)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """transformers' own Trainer, with accumulation, a schedule, and an evaluation also before the first step."""
    generator = torch.Generator().manual_seed(0)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(2, 12, (64, 6), generator=generator)]
    args = TrainingArguments(
        output_dir=str(tmp_path_factory.mktemp("plain")),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        max_steps=4,
        logging_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
        save_strategy="no",
    )
    tracker, logs = InMemoryTracker(), Logs()
    callbacks = [RLDKCallback(trackers=[tracker], strict=True), logs]
    trainer = WithMemory(tiny_model(0), args, train_dataset=rows, eval_dataset=rows[:8], callbacks=callbacks)
    trainer.train()
    return Ran(tracker, logs, trainer)


def check(run: Ran) -> None:
    for key in ALWAYS:
        # An evaluation before the first step is judged too.
        assert [step for step, _ in run.tracker.series[key] if step > 0] == list(run.spy.steps), key
    for step, logs in run.spy.steps.items():
        assert run.at(step)["rldk/train/loss"] == pytest.approx(logs["loss"])
        assert run.at(step)["rldk/grad/norm"] == pytest.approx(logs["grad_norm"], rel=1e-5)
        assert run.at(step)["rldk/update/learning_rate"] == pytest.approx(logs["learning_rate"])
    sampled = ("reward", "kl", "policy", "value", "advantage", "length", "diversity", "sampler", "preference")
    assert [key for key in run.tracker.series if key.split("/")[1] in sampled] == []
    assert [step for step, _ in run.tracker.series["rldk/throughput/step_seconds"]] == list(run.spy.steps)[1:]


def test_supervised_fine_tuning(text_run: Callable[[str], Ran]) -> None:
    check(text_run("sft"))


def test_a_trainer_of_transformers(plain_run: Ran) -> None:
    check(plain_run)


def test_an_evaluation_has_the_step_that_it_was_made_at(plain_run: Ran) -> None:
    logged: list[dict[str, Any]] = plain_run.trainer.state.log_history
    evaluated = {entry["step"]: entry["eval_loss"] for entry in logged if "eval_loss" in entry}
    assert dict(plain_run.tracker.series["rldk/eval/loss"]) == pytest.approx(evaluated) and set(evaluated) == {0, 2, 4}


def test_the_callback_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    """The same weights with and without it, and none of its hooks left on the optimizer."""
    weights = []
    for callbacks in ([], [RLDKCallback(trackers=[InMemoryTracker()], level="full")]):
        rows = [{"input_ids": ids, "labels": ids} for ids in torch.arange(2, 10).repeat(16, 1)]
        args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, max_steps=3, seed=1)
        trainer = Trainer(tiny_model(0), args, train_dataset=rows, callbacks=callbacks)
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        inner = trainer.optimizer.optimizer
        assert not inner._optimizer_step_pre_hooks
        assert not inner._optimizer_step_post_hooks
    assert torch.equal(*weights)
