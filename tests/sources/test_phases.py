"""A trainer's phases are said as they come, and the trainer is put back as it was."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.phases import METHODS, Phase, PhaseWatch


class Heard:
    """As a heartbeat: takes the phase that begins, and returns the one before."""

    def __init__(self, phase: Phase = "starting") -> None:
        self.phase: Phase = phase
        self.all: list[str] = []

    def __call__(self, phase: Phase) -> Phase:
        before, self.phase = self.phase, phase
        self.all.append(phase)
        return before


class Accelerator:
    def backward(self, loss: float) -> str:
        return f"backward of {loss}"


class Loop:
    """A trainer of somebody's own, with some of the methods."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()

    def evaluate(self, fail: bool = False) -> str:
        if fail:
            raise KeyboardInterrupt
        return self._calculate_rewards(2)

    def _calculate_rewards(self, number: int) -> str:
        """Rewards."""
        return f"{number} rewards"


def test_the_phase_before_comes_back_also_after_an_exception() -> None:
    loop, heard = Loop(), Heard("between")
    watch = PhaseWatch(loop, heard)
    assert loop.evaluate() == "2 rewards"
    assert heard.all == ["evaluation", "reward", "evaluation", "between"]
    heard.all.clear()
    with pytest.raises(KeyboardInterrupt):
        loop.evaluate(fail=True)
    assert heard.all == ["evaluation", "between"]
    watch.detach()


def test_what_follows_a_backward_pass_is_the_rest_of_the_step() -> None:
    loop, heard = Loop(), Heard("sampling")  # as in a loop that says of no step's beginning
    watch = PhaseWatch(loop, heard)
    assert loop.accelerator.backward(0.5) == "backward of 0.5"
    assert heard.all == ["backward", "step"]
    watch.detach()


def test_detach_puts_everything_back() -> None:
    loop, heard = Loop(), Heard()
    watch = PhaseWatch(loop, heard)
    assert loop._calculate_rewards.__doc__ == "Rewards."
    assert list(inspect.signature(loop._calculate_rewards).parameters) == ["number"]
    watch.detach()
    watch.detach()
    assert set(vars(loop)) == {"accelerator"} and vars(loop.accelerator) == {}
    loop.evaluate()
    assert heard.all == []


def test_a_loop_without_any_of_the_methods_is_left_alone() -> None:
    heard = Heard()
    PhaseWatch(object(), heard).detach()
    assert heard.all == []


class Steps(TrainerCallback):
    def __init__(self, heard: Heard) -> None:
        self.heard = heard

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.heard("step")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.heard("between")


def test_a_grpo_trainer_with_evaluation_and_saving(tmp_path: Path) -> None:
    heard = Heard()
    trainer = grpo_trainer(
        tmp_path,
        max_steps=2,
        callbacks=[Steps(heard)],
        save_strategy="steps",
        save_steps=2,
        per_device_eval_batch_size=8,
    )
    trainer.args.eval_strategy, trainer.args.eval_steps = IntervalStrategy.STEPS, 2
    trainer.state.eval_steps = 2
    trainer.eval_dataset = trainer.train_dataset.select(range(2))
    before = set(vars(trainer))
    watch = PhaseWatch(trainer, heard)
    trainer.train()
    watch.detach()
    step = ["step", "sampling", "reward", "sampling", "step", "backward", "step", "backward", "step", "between"]
    evaluation = ["evaluation", *["sampling", "reward", "sampling", "evaluation"] * 2, "between"]
    assert heard.all == [*step, *step, *evaluation, "saving", "between"]
    assert not set(METHODS) & set(vars(trainer)) and "backward" not in vars(trainer.accelerator)
    assert set(vars(trainer)) >= before


def test_a_ppo_trainer(tmp_path: Path) -> None:
    pytest.importorskip("trl.experimental.ppo", reason="TRL 1.12 or older")
    from rldk_tracking.demo.trainers import ppo_trainer

    heard = Heard()
    trainer = ppo_trainer(tmp_path, max_steps=1, callbacks=[Steps(heard)], save_strategy="no")
    watch = PhaseWatch(trainer, heard)
    trainer.train()
    watch.detach()
    assert heard.all[:3] == ["backward", "step", "backward"]
    assert heard.all.count("backward") == 8  # 2 epochs of 4 micro-batches
    assert heard.all[heard.all.index("between") - 1] == "step"
