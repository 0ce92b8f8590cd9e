"""Which source a trainer gets: by what it has, whatever it is called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking import demo
from rldk_tracking.sources.detect import LogsSource, source_for
from rldk_tracking.sources.trl_async import AsyncSource
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.sources.trl_ppo import PPOSource

ARGS = SimpleNamespace(per_device_train_batch_size=2, gradient_accumulation_steps=3)
SCORES = {"_generate_and_score_completions": print, "_calculate_rewards": print, "args": ARGS}


class Loop:
    """As TRL's PPOTrainer, whose whole rollout is in its loop's variables."""

    args = ARGS

    def train(self) -> tuple[Any, Any]:
        padding_mask, ref_logprobs = torch.zeros(2, 3), torch.zeros(2, 3)
        return padding_mask, lambda: ref_logprobs  # which makes one of them a cell


class Started(Loop):
    """Has a `train` of its own that calls the loop."""

    def train(self, fresh: bool = True) -> Any:
        return super().train() if fresh else None


def with_attributes(**attributes: Any) -> Any:
    return type("Whatever", (), attributes)()


@pytest.mark.parametrize("name", ["GRPOTrainer", "PPOTrainer", "UnslothGRPOTrainer", "Whatever"])
def test_a_name_decides_nothing(name: str) -> None:
    assert type(source_for(type(name, (), {"args": ARGS})())) is LogsSource
    assert type(source_for(type(name, (), dict(SCORES))())) is GroupSource
    assert type(source_for(type(name, (Loop,), {})())) is PPOSource


@pytest.mark.parametrize(
    ("lacks", "more", "kind"),
    [
        ((), {}, GroupSource),
        # Trainers that make their completions in another method, but whose loss is known.
        (("_generate_and_score_completions",), {"_get_per_token_logps_and_entropies": print}, GroupSource),
        (("_generate_and_score_completions",), {}, LogsSource),
        # As those that keep what they have scored in their logs.
        (("_calculate_rewards",), {"_logs": {"rewards": {}}}, GroupSource),
        # TRL up to 0.18, which scores in the method that samples, and calls its logs otherwise.
        (("_calculate_rewards",), {"_textual_logs": {"rewards": {}}}, GroupSource),
        (("_generate_and_score_completions",), {"_get_per_token_logps": print}, GroupSource),
        # As TRL's DistillationTrainer, which samples and has no rewards.
        (("_calculate_rewards",), {"_logs": {"prompt": []}}, LogsSource),
        (("_calculate_rewards",), {}, LogsSource),
    ],
)
def test_what_is_read_of_grpo_decides(lacks: tuple[str, ...], more: dict[str, Any], kind: type) -> None:
    has = {name: value for name, value in SCORES.items() if name not in lacks}
    assert type(source_for(with_attributes(**has, **more))) is kind
    assert type(source_for(with_attributes(**{**dict.fromkeys(SCORES), "args": ARGS}))) is LogsSource


@pytest.mark.parametrize(("loop", "kind"), [(Loop, PPOSource), (Started, PPOSource), (type("T", (), {}), LogsSource)])
def test_the_variables_of_a_loop_decide(loop: type, kind: type) -> None:
    assert type(source_for(loop())) is kind


def test_a_loop_without_a_rollout_is_read_by_its_logs() -> None:
    class Padded:
        def train(self) -> Any:
            padding_mask = torch.zeros(2, 3)
            return padding_mask.sum()

    assert type(source_for(Padded())) is LogsSource


def test_real_trainers(tmp_path: Path) -> None:
    assert isinstance(source_for(demo.grpo_trainer(tmp_path, beta=0.0)), GroupSource)
    assert isinstance(source_for(demo.rloo_trainer(tmp_path, beta=0.0)), GroupSource)


def test_a_real_ppo_trainer() -> None:
    ppo = pytest.importorskip("trl.experimental.ppo", reason="TRL removed PPOTrainer in 1.13")
    made = object.__new__(type("Mine", (ppo.PPOTrainer,), {}))
    made.args = ARGS
    assert type(source_for(made)) is PPOSource


class Queued:
    """As TRL's AsyncGRPOTrainer: completions come from a queue, and the loss sees the sampler's log-probabilities."""

    args = SimpleNamespace(**vars(ARGS), world_size=1)
    rollout_queue, model_version = None, 1

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        old_log_probs = inputs["old_log_probs"]
        return model(inputs) - old_log_probs


class Distilled:
    """As TRL's AsyncDistillationTrainer, whose loss knows nothing of the sampler."""

    rollout_queue, model_version = None, 1

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        return model(inputs)


@pytest.mark.parametrize(("kind", "source"), [(Queued, AsyncSource), (Distilled, LogsSource)])
def test_a_trainer_that_samples_beside_the_training(kind: type, source: type) -> None:
    assert type(source_for(kind())) is source


def test_the_real_trainers_that_sample_beside_the_training() -> None:
    asynchronous = pytest.importorskip("trl.experimental.async_grpo", reason="this TRL has none")
    trainer = object.__new__(asynchronous.AsyncGRPOTrainer)
    assert type(source_for(trainer)) is LogsSource, "nothing of it has been made"
    trainer.args, trainer.rollout_queue, trainer.model_version = Queued.args, None, 0
    assert type(source_for(trainer)) is AsyncSource


def test_trainers_without_rewards_are_read_by_their_logs() -> None:
    from trl import DPOTrainer, SFTTrainer

    for kind in (DPOTrainer, SFTTrainer):
        assert type(source_for(object.__new__(kind))) is LogsSource


@pytest.mark.parametrize("trainer", [with_attributes(**SCORES), Loop(), Queued(), with_attributes(args=ARGS)])
def test_every_source_has_what_the_protocol_asks_for(trainer: Any) -> None:
    source = source_for(trainer)
    assert source.rows_per_rank >= 1
    assert source.honours_stop is not isinstance(trainer, Loop)
    assert source.contract.period >= 1 and bool(source.contract.rollout) == (source.rows_per_rank > 1)
    assert source.missing == [] and source.rollout_seconds is None
    assert all(callable(getattr(source, method)) for method in ("attach", "detach", "read"))
