"""What functions of every kind return, as a trainer asks them; and that nobody notices that they are watched."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.reward_functions import RewardWatch


class Model(torch.nn.Module):
    def forward(self, count: int) -> torch.Tensor:
        return torch.full((count,), math.nan)


class Trainer:
    """Asks its functions as TRL's does."""

    def __init__(self, *functions: Any, rank: int = 0, ranks: int = 1) -> None:
        self.reward_funcs = list(functions)
        self.model = SimpleNamespace(training=True)
        self.accelerator = SimpleNamespace(process_index=rank, num_processes=ranks)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        self.during = list(self.reward_funcs)
        table = torch.zeros(len(prompts), len(self.reward_funcs))
        for index, function in enumerate(self.reward_funcs):
            if isinstance(function, torch.nn.Module):
                table[:, index] = function(len(prompts))
                continue
            if inspect.iscoroutinefunction(function):
                answer = asyncio.run(function(prompts=prompts, completions=completions))
            else:
                answer = function(prompts=prompts, completions=completions)
            answer = [math.nan if value is None else value for value in answer]
            table[:, index] = torch.tensor(answer, dtype=torch.float32)
        return table.repeat(self.accelerator.num_processes, 1)


ANSWER = [None, 1.0, math.nan]


def plain(prompts: list[str], completions: list[str]) -> list[float | None]:
    return ANSWER


async def judged(prompts: list[str], completions: list[str]) -> list[float | None]:
    await asyncio.sleep(0)
    return ANSWER


def one_by_one(prompts: list[str], completions: list[str]) -> Iterator[float | None]:
    yield from ANSWER


def tensor(prompts: list[str], completions: list[str]) -> torch.Tensor:
    return torch.tensor([0.0, math.nan, 2.0])


class Judge:
    def __call__(self, prompts: list[str], completions: list[str]) -> tuple[float | None, ...]:
        return tuple(ANSWER)


def asked(trainer: Trainer) -> torch.Tensor:
    return trainer._calculate_rewards([{}] * 3, ["p", "q", "r"], ["a", "b", "c"], [[1], [2], [3]])


def watched(*functions: Any, **where: int) -> tuple[Trainer, RewardWatch]:
    trainer = Trainer(*functions, **where)
    return trainer, RewardWatch(trainer, Shield(strict=True))


def test_none_is_told_from_nan_in_functions_of_every_kind() -> None:
    trainer, watch = watched(plain, judged, one_by_one, tensor, Judge(), Model())
    returned = asked(trainer)
    (batch,) = watch.take()
    assert torch.equal(batch.rewards.nan_to_num(9.0), returned.nan_to_num(9.0))
    none, never = [True, False, False], [False] * 3
    assert batch.abstained == {0: none, 1: none, 2: none, 3: never, 4: none, 5: never}
    assert (batch.prompts, batch.completions, batch.token_ids) == (["p", "q", "r"], ["a", "b", "c"], [[1], [2], [3]])
    assert watch.take() == []


class SlowJudge:
    """As ms-swift's AsyncORM: called it gives what is waited for."""

    async def __call__(self, completions: list[str]) -> list[float | None]:
        await asyncio.sleep(0)
        return ANSWER


class SwiftTrainer(Trainer):
    """Asks its functions as ms-swift's does; the inherited method is not called."""

    def _compute_rewards_per_func(self, samples: list[Any]) -> torch.Tensor:
        completions = [sample.messages[-1]["content"] for sample in samples]
        table = torch.zeros(len(samples), len(self.reward_funcs))
        for index, function in enumerate(self.reward_funcs):
            is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)
            answer = asyncio.run(function(completions)) if is_async else function(completions)
            table[:, index] = torch.tensor([math.nan if value is None else value for value in answer])
        return table


def test_samples_are_read_too() -> None:
    trainer = SwiftTrainer(SlowJudge(), lambda completions: [float(len(text)) for text in completions])
    watch = RewardWatch(trainer, Shield(strict=True))
    user, texts = {"role": "user", "content": "p"}, ("a", "bb", "ccc")
    messages = [[user, {"role": "assistant", "content": text}] for text in texts]
    ids: list[Any] = [[1], [[2], [3, 4]], []]
    samples = [SimpleNamespace(messages=m, response_token_ids=i) for m, i in zip(messages, ids, strict=True)]
    trainer._compute_rewards_per_func(samples)
    (batch,) = watch.take()
    assert batch.rewards[:, 1].tolist() == [1.0, 2.0, 3.0]
    assert batch.abstained == {0: [True, False, False], 1: [False] * 3}
    assert batch.token_ids == [[1], [2, 3, 4], []]
    assert batch.prompts == [[user]] * 3
    assert [last["content"] for (last,) in batch.completions] == list(texts)
    watch.detach()
    assert "_compute_rewards_per_func" not in vars(trainer)


def test_functions_are_those_of_the_user_before_and_after() -> None:
    model = Model()
    trainer, watch = watched(plain, judged, model)
    functions = trainer.reward_funcs
    asked(trainer)
    assert trainer.reward_funcs is functions and functions == [plain, judged, model]
    assert [function.__name__ for function in trainer.during[:2]] == ["plain", "judged"]
    assert trainer.during[2] is model
    watch.detach()
    assert "_calculate_rewards" not in vars(trainer)
    asked(trainer)
    assert trainer.during == [plain, judged, model] and watch.take() == []


def test_a_function_that_raises_raises() -> None:
    def broken(**_: Any) -> list[float]:
        raise ZeroDivisionError

    trainer, watch = watched(plain, broken)
    with pytest.raises(ZeroDivisionError):
        asked(trainer)
    assert trainer.reward_funcs == [plain, broken] and watch.take() == []


def test_a_rank_has_its_own_rows() -> None:
    trainer, watch = watched(plain, rank=1, ranks=2)
    asked(trainer)
    (batch,) = watch.take()
    assert (batch.first_row, batch.all_rows, len(batch.rewards)) == (3, 6, 3)


def test_an_evaluation_is_left_alone() -> None:
    trainer, watch = watched(plain)
    trainer.model.training = False
    asked(trainer)
    assert watch.take() == [] and trainer.during == [plain]


def test_trainers_that_score_otherwise_are_left_alone() -> None:
    class Other(Trainer):
        def _calculate_rewards(self, prompts: Any, completions: Any, **_: Any) -> Any:  # type: ignore[override]
            return {"total": 1.0}

    trainer = Other(plain)
    watch = RewardWatch(trainer, Shield(strict=True))
    assert trainer._calculate_rewards(["p"], ["c"]) == {"total": 1.0} and watch.take() == []
    watch.detach()


class Nothing:
    """A trainer without the method."""


def test_a_trainer_without_the_method_is_left_alone() -> None:
    nothing = Nothing()
    RewardWatch(nothing, Shield(strict=True)).detach()
    assert vars(nothing) == {}
