"""What is read of a trainer that takes completions from a queue, where a part of it is not as in TRL's newest."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.trl_async import (
    NO_LOSS,
    NO_ORDER,
    AsyncSource,
    Report,
    loss_terms,
    rollout_of,
    rows_per_rank,
)

ARGS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "world_size": 1, "max_staleness": 1}


class Model(torch.nn.Module):
    """Finds every token as likely as its logarithm of 0.5 says."""

    def forward(self, input_ids: Any) -> Any:
        return {"log_probs": torch.full((1, input_ids.shape[1]), -0.5)}


class Trainer:
    """As TRL's, as far as it is looked at; `collator` is what packs."""

    def __init__(self, collator: Any = None) -> None:
        self.args = SimpleNamespace(**ARGS)
        self.state, self.model, self.model_version = SimpleNamespace(global_step=0), Model(), 1
        self.rollout_queue: queue.Queue[Any] = queue.Queue()
        self.callback_handler = SimpleNamespace(train_dataloader=SimpleNamespace(collate_fn=collator))

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        return model(inputs["input_ids"])


class Collator:
    def torch_call(self, examples: Any) -> Any:
        return examples


def sample(group: int, age: int = 0) -> Any:
    return SimpleNamespace(
        input_ids=[5, 6, 7],
        completion_mask=[0, 1, 1],
        old_log_probs=[0.0, -1.0, -0.5],
        advantage=0.5,
        model_version=1 - age,
        group_id=group,
        metrics={"reward": 1.0},
        prompt="p",
        completion=[{"role": "assistant", "content": "c"}],
    )


def attached(trainer: Trainer, report: Report = lambda scalars: None) -> AsyncSource:
    source = AsyncSource(trainer, report)
    source.attach(trainer, Shield(strict=True))
    return source


def inputs(**more: Any) -> dict[str, Any]:
    """Two completions of one prompt, end to end, as in TRL 1.12."""
    return {
        "input_ids": torch.tensor([[5, 6, 7, 5, 8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 0]]),
        "completion_mask": torch.tensor([[0, 1, 1, 0, 1, 1, 0]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 0]]),
        "advantages": torch.tensor([[0.5, 0.5, 0.5, -0.5, -0.5, -0.5, 0.0]]),
        **more,
    }


def test_rows_that_lie_end_to_end_and_rows_that_share_their_prompt() -> None:
    places, known, owners = loss_terms(inputs())
    assert (places.tolist(), known.int().tolist()) == ([0, 1, 3, 4], [[0, 1, 1, 0, 1, 1, 0]])
    assert owners.tolist() == [0, 0, 1, 1]
    packed = {"token_index": torch.tensor([[0, 1, 0, 3, -1]]), "segment_id": torch.tensor([[0, 0, 1, 1, 0]])}
    places, known, owners = loss_terms(packed)
    assert (places.tolist(), owners.tolist()) == ([0, 1, 0, 3], [0, 0, 1, 1])
    assert known.tolist() == [[True, True, True, True, False]]


def test_a_step_of_rows_that_lie_end_to_end() -> None:
    trainer = Trainer(Collator())
    source, samples = attached(trainer), [sample(3), sample(4)]
    for each in (*samples, sample(5, age=2)):
        trainer.rollout_queue.put(each)
    taken = [trainer.rollout_queue.get() for _ in range(3)]
    trainer.callback_handler.train_dataloader.collate_fn.torch_call([[[vars(each) for each in taken[:2]]]])
    trainer.compute_loss(trainer.model, inputs(old_log_probs=torch.tensor([[0.0, -1.0, -0.5, 0.0, -2.0, -0.5, 0.0]])))
    trainer.state.global_step = 1
    seen = source.read(1, {"kl": 0.1, "ratio": 1.1, "perf/rollout_wait_s": 9.0, "reward": 7.0, "loss": 0.2})
    assert seen.rollout is not None and seen.update is not None
    assert seen.rollout.logprobs.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]
    assert seen.update.old_logprobs.tolist() == [[-1.0, -0.5], [-2.0, -0.5]]
    assert seen.update.advantages.tolist() == [[0.5, 0.5], [-0.5, -0.5]]
    assert seen.rollout.group_ids.tolist() == [3, 4] and seen.rollout.completions == ("c", "c")
    assert seen.scalars["rldk/async/dropped"] == 1.0 and seen.scalars["rldk/async/staleness/mean"] == 0.0
    assert seen.scalars["rldk/async/wait_seconds"] < 9.0 and seen.logged["rldk/train/loss"] == 0.2
    assert seen.logged.keys() > {"rldk/sampler/k3", "rldk/policy/ratio_mean", "rldk/reward/mean"}
    assert source.missing == []
    source.detach()
    assert not {"get", "compute_loss"} & {*vars(trainer.rollout_queue), *vars(trainer)}


def test_of_a_conversation_the_tokens_count_that_the_model_wrote() -> None:
    """A tool's answer lies between; the last token that is trained on says whether it was cut off."""
    whole, cut = sample(1), sample(1)
    whole.input_ids, cut.input_ids = [5, 6, 7, 8, 2], [5, 6, 7, 8, 9]
    whole.completion_mask = cut.completion_mask = [0, 1, 0, 1, 1]
    whole.old_log_probs = cut.old_log_probs = [0.0, -1.0, 0.0, -2.0, -3.0]
    short = sample(2)
    rollout = rollout_of([whole, cut, short], (2, 7), torch.device("cpu"), None)
    assert rollout.token_ids is not None and rollout.sampler_logprobs is not None and rollout.truncated is not None
    assert rollout.mask.int().tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    assert rollout.token_ids.tolist() == [[6, 8, 2], [6, 8, 9], [6, 7, 0]]
    assert rollout.sampler_logprobs.tolist() == [[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-1.0, -0.5, 0.0]]
    assert rollout.truncated.tolist() == [False, True, False]
    assert rollout.logprobs is not None and bool(rollout.logprobs.isnan().all()), "another rank has them"


@pytest.mark.parametrize("lacks", ["collator", "order", "old_log_probs"])
def test_what_lacks_is_told_once_and_leaves_the_logs(lacks: str) -> None:
    trainer = Trainer(None if lacks == "collator" else Collator())
    source = attached(trainer)
    for step in (1, 2):
        trainer.rollout_queue.put(sample(step))
        taken = vars(trainer.rollout_queue.get())
        if lacks == "order":  # as where somebody makes completions anew on their way
            taken = {**taken, "input_ids": list(taken["input_ids"])}
        if lacks != "collator":
            trainer.callback_handler.train_dataloader.collate_fn.torch_call([[[taken]]])
        trainer.compute_loss(trainer.model, inputs())
        trainer.state.global_step = step
        seen = source.read(step, {"kl": 0.1, "perf/rollout_wait_s": 9.0, "reward": 7.0})
    assert source.missing == [*([] if lacks == "old_log_probs" else [NO_ORDER]), NO_LOSS]
    assert (seen.rollout, seen.update) == (None, None)
    assert seen.logged["rldk/sampler/k3"] == 0.1 and seen.logged["rldk/reward/mean"] == 7.0
    assert seen.scalars["rldk/async/queue_length"] == 0.0


def test_no_fault_of_the_reading_reaches_the_training() -> None:
    trainer = Trainer(Collator())
    source = AsyncSource(trainer)
    source.attach(trainer, Shield())
    trainer.rollout_queue.put("no completion")
    assert trainer.rollout_queue.get() == "no completion"
    assert trainer.callback_handler.train_dataloader.collate_fn.torch_call([]) == []
    assert trainer.compute_loss(len, {"input_ids": [1, 2]}) == 2, "a model that cannot be hooked"
    with pytest.raises(queue.Empty):
        trainer.rollout_queue.get_nowait()
    assert source.read(1, {}).rollout is None


def test_another_rank_has_no_queue() -> None:
    trainer = Trainer()
    trainer.rollout_queue = None  # type: ignore[assignment]
    source = attached(trainer)
    trainer.compute_loss(trainer.model, inputs(old_log_probs=torch.zeros(1, 7)))
    seen = source.read(1, {})
    assert (source.missing, seen.rollout, dict(seen.scalars)) == ([], None, {})
    assert seen.update is not None and seen.update.mask.shape == (2, 2)


def test_a_step_that_never_ends_is_reported_five_times() -> None:
    trainer = Trainer(Collator())
    reports: list[Any] = []
    attached(trainer, reports.append)
    for _ in range(20):
        trainer.rollout_queue.put(sample(1, age=7))
        trainer.rollout_queue.get()
    assert reports == [{"rldk/async/stale_fraction": 1.0, "rldk/async/staleness/max": 7.0}] * 5


@pytest.mark.parametrize(("budget", "rows"), [(0, 2), (None, 512), (4096, 512)])
def test_every_rank_expects_as_many_rows(budget: int | None, rows: int) -> None:
    """The main rank fills in a budget that is not set, the others do not know of it."""
    trainer = Trainer()
    trainer.args.token_budget = budget
    assert rows_per_rank(trainer) == rows
