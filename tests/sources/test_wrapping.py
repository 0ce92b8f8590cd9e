"""A wrapped method is put back exactly as it was, and what stands around it says what happens."""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.sources.wrapping import (
    BESIDE_STEPS,
    EXCHANGES,
    METHODS,
    AcceleratorWatch,
    Phase,
    PhaseWatch,
    Stopwatch,
    Wrapped,
    local_variables,
    scale_of,
)


class Thing:
    def double(self, number: int) -> int:
        return 2 * number


def counting(calls: list[int]) -> Any:
    def around(original: Any) -> Any:
        def method(number: int) -> int:
            calls.append(number)
            return int(original(number))

        return method

    return around


def test_only_this_object_is_wrapped_and_restored() -> None:
    calls: list[int] = []
    mine, other = Thing(), Thing()
    wrapped = Wrapped(mine, "double", counting(calls))
    assert (mine.double(2), other.double(3)) == (4, 6)
    assert calls == [2]
    wrapped.restore()
    assert vars(mine) == {} and mine.double(5) == 10 and calls == [2]
    wrapped.restore()


def test_an_earlier_wrapper_comes_back() -> None:
    first: list[int] = []
    mine = Thing()
    Wrapped(mine, "double", counting(first))
    earlier = vars(mine)["double"]
    Wrapped(mine, "double", counting([])).restore()
    assert vars(mine)["double"] is earlier


def test_a_later_wrapper_stays_whole() -> None:
    later: list[int] = []
    mine = Thing()
    ours = Wrapped(mine, "double", counting([]))
    Wrapped(mine, "double", counting(later))
    ours.restore()
    assert mine.double(4) == 8 and later == [4]


def test_several_may_go_in_any_order() -> None:
    for order in itertools.permutations(range(3)):
        mine, calls = Thing(), [[], [], []]  # type: ignore[var-annotated]
        layers = [Wrapped(mine, "double", counting(seen)) for seen in calls]
        for number in order:
            assert mine.double(1) == 2
            layers[number].restore()
        assert vars(mine) == {} and mine.double(1) == 2
        assert all(calls)


def test_what_lies_below_somebody_elses_wrapper_stays() -> None:
    mine = Thing()
    below = Wrapped(mine, "double", counting([]))
    theirs = functools.wraps(mine.double)(lambda number: 0)
    mine.double = theirs  # type: ignore[method-assign]
    above = Wrapped(mine, "double", counting([]))
    below.restore()
    above.restore()
    assert vars(mine)["double"] is theirs and mine.double(3) == 0


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True, gradient_accumulation_steps=3)


def test_it_sees_gradients_before_they_are_clipped(accelerator: Accelerator) -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    seen: list[tuple[float | None, Any, float]] = []
    watch = AcceleratorWatch(
        accelerator, lambda limit, scale: seen.append((limit, scale, float(parameter.grad.norm()))), lambda: None
    )
    assert float(accelerator.clip_grad_norm_(iter([parameter]), 2.0)) == pytest.approx(6.0)
    assert float(accelerator.clip_grad_norm_([parameter], math.inf)) == pytest.approx(2.0, rel=1e-4)
    assert seen == [(2.0, None, pytest.approx(6.0)), (None, None, pytest.approx(2.0, rel=1e-4))]
    watch.detach()
    accelerator.clip_grad_norm_([parameter], 1.0)
    assert len(seen) == 2


def test_it_counts_the_passes_within_an_accumulation(accelerator: Accelerator) -> None:
    model = accelerator.prepare(torch.nn.Linear(2, 1))
    calls: list[int] = []
    watch = AcceleratorWatch(accelerator, lambda limit, scale: None, lambda: calls.append(1))
    for _ in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1, 2)).sum())
    assert len(calls) == 4  # of two accumulations of three passes
    watch.detach()


def test_another_wrapper_keeps_working(accelerator: Accelerator) -> None:
    mine: list[int] = []
    watch = AcceleratorWatch(accelerator, lambda limit, scale: mine.append(1), lambda: None)
    below = accelerator.clip_grad_norm_
    others: list[int] = []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        others.append(1)
        return below(*args, **kwargs)

    accelerator.clip_grad_norm_ = wrapper
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    accelerator.clip_grad_norm_([parameter], 1.0)
    watch.detach()
    accelerator.clip_grad_norm_([parameter], 1.0)
    assert (len(mine), len(others)) == (1, 2)
    assert "backward" not in vars(accelerator)


def test_the_scale_of_float16() -> None:
    class Scaled:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    Scaled.scaler.scale(torch.ones(1))
    assert float(scale_of(Scaled)) == 8.0  # type: ignore[arg-type]
    assert scale_of(object()) is None


class Heard:
    """As a heartbeat: takes the phase that begins, and returns the one before."""

    def __init__(self, phase: Phase = "starting") -> None:
        self.phase: Phase = phase
        self.all: list[str] = []

    def __call__(self, phase: Phase) -> Phase:
        before, self.phase = self.phase, phase
        self.all.append(phase)
        return before


class BackwardOnly:
    def backward(self, loss: float) -> str:
        return f"backward of {loss}"


class Loop:
    """A trainer of somebody's own, with some of the methods."""

    def __init__(self) -> None:
        self.accelerator = BackwardOnly()

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


class Gathering:
    """As accelerate's: one of the two calls the other."""

    def gather(self, tensor: Any) -> Any:
        time.sleep(0.05)
        return tensor

    def gather_for_metrics(self, tensor: Any) -> Any:
        return self.gather(tensor)


def test_time_in_exchanges_is_counted_once() -> None:
    accelerator = Gathering()
    waiting = Stopwatch(accelerator, EXCHANGES)
    assert accelerator.gather(3) == 3
    assert accelerator.gather_for_metrics(4) == 4
    time.sleep(0.05)
    assert 0.1 <= waiting.take() < 0.145
    assert waiting.take() == 0.0
    waiting.detach()
    assert vars(accelerator) == {}
    accelerator.gather(1)
    assert waiting.take() == 0.0


def test_what_is_no_part_of_a_step() -> None:
    assert set(BESIDE_STEPS) == {"evaluate", "_save_checkpoint", "generate_completions"}


def test_a_call_that_raises_is_counted_too() -> None:
    class Failing:
        def evaluate(self) -> None:
            time.sleep(0.02)
            raise ValueError("no evaluation")

    failing = Failing()
    stopwatch = Stopwatch(failing, BESIDE_STEPS)
    for times in (1, 2):
        with pytest.raises(ValueError, match="no evaluation"):
            failing.evaluate()
        assert stopwatch.seconds >= 0.02 * times


def test_an_accelerator_without_gathers_is_left_alone() -> None:
    waiting = Stopwatch(object(), EXCHANGES)
    assert waiting.take() == 0.0
    waiting.detach()


class Below:
    def work(self) -> Any:
        inner, kept = 1, 2
        return inner, lambda: kept


class Above(Below):
    @functools.wraps(Below.work)
    def work(self) -> Any:
        hidden = super().work()
        return hidden[0]

    def other(self) -> Any:
        elsewhere = 3
        return elsewhere + 1


def test_variables_of_a_method_are_known_in_every_class_and_under_a_wrapper() -> None:
    assert local_variables(Below(), "work") == {"self", "inner", "kept"}
    above = Above()
    assert local_variables(above, "work") >= {"self", "inner", "kept"}
    assert "elsewhere" in local_variables(above, "other") and local_variables(above, "absent") == set()
    above.work = lambda: None  # type: ignore[method-assign]
    assert "inner" in local_variables(above, "work"), "what the object has of its own is a wrapper"
    assert local_variables(type("Odd", (), {"work": None, "other": len})(), "work") == set()
