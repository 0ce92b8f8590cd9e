"""What the reward functions of TRL's GRPO and RLOO return, read where they return it.

The trainer's logs hold less: a function's None, its way to abstain, has become NaN in them, and they are kept by name,
which two functions may share.
"""

from __future__ import annotations

import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.wrapping import Wrapped

logger = logging.getLogger(__name__)

REWARDS = "_calculate_rewards"
OF_SAMPLES = "_compute_rewards_per_func"
"""ms-swift's in its place, whose trainer inherits the other and does not call it."""


@dataclass(frozen=True)
class Scored:
    """One batch of completions that was scored, this rank's rows of it.

    Attributes:
        prompts, completions: B texts or conversations each.
        token_ids: the tokens of each completion, with those that tools wrote.
        rewards: (B, F) what each of F functions returned, NaN for None.
        abstained: number of a function to B times whether it returned None; without those whose answer cannot be read.
        first_row: number of the first row among all ranks' rows.
        all_rows: number of rows over all ranks.
    """

    prompts: Sequence[Any]
    completions: Sequence[Any]
    token_ids: Sequence[Sequence[int]]
    rewards: Tensor
    abstained: dict[int, list[bool]] = field(default_factory=dict)
    first_row: int = 0
    all_rows: int = 0


class RewardWatch:
    """Stands around a trainer's `_calculate_rewards`, and around its reward functions while that runs, until `detach`.

    Or around ms-swift's `_compute_rewards_per_func`, which is given one object a completion.

    Functions of one name, which the trainer's logs mix, are said once.

    Functions are called as before, and what they return is handed on; an iterator, which can be read once, as a list.
    Evaluation is left alone.

    Args:
        trainer: whose rewards are read. One without the method is left as it is.
        shield: keeps faults of the reading from the trainer.
    """

    def __init__(self, trainer: Any, shield: Shield) -> None:
        self._trainer = weakref.ref(trainer)
        self._shield = shield
        self._batches: list[Scored] = []
        method = OF_SAMPLES if callable(getattr(trainer, OF_SAMPLES, None)) else REWARDS
        has_method = callable(getattr(trainer, method, None))
        self._wrapped = Wrapped(trainer, method, self._around) if has_method else None
        names = [str(name) for name in getattr(trainer, "reward_func_names", ())]
        if has_method and len(set(names)) < len(names):
            logger.warning(
                "rldk: several reward functions have one name among %s. The trainer's rewards/<name> mixes them; here "
                "they are apart, as rldk/reward/function/<name>, <name>-2 in their order.",
                ", ".join(names),
            )

    def take(self) -> list[Scored]:
        """What was scored since the last call, in order."""
        batches, self._batches = self._batches, []
        return batches

    def detach(self) -> None:
        """Put the method back as it was."""
        if self._wrapped is not None:
            self._wrapped.restore()
            self._wrapped = None
        self._batches = []

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def calculate_rewards(*args: Any, **kwargs: Any) -> Any:
            trainer = self._trainer()
            functions = getattr(trainer, "reward_funcs", None)
            if trainer is None or not trainer.model.training or not isinstance(functions, list):
                return original(*args, **kwargs)
            answers: dict[int, Any] = {}
            before = list(functions)
            functions[:] = observers = [_observer(function, answers, i) for i, function in enumerate(before)]
            try:
                result = original(*args, **kwargs)
            finally:
                # Who has changed the list meanwhile keeps the change.
                known = {id(observer): function for observer, function in zip(observers, before, strict=True)}
                functions[:] = [known.get(id(function), function) for function in functions]
            with self._shield.at("reading rewards"):
                self._keep(trainer, before, answers, result, signature.bind(*args, **kwargs).arguments)
            return result

        return calculate_rewards

    def _keep(
        self, trainer: Any, functions: list[Any], answers: dict[int, Any], result: Any, arguments: dict[str, Any]
    ) -> None:
        names = ("prompts", "completions", "completion_ids_list")
        if "samples" in arguments:
            arguments = _of_samples(arguments["samples"])
        if any(arguments.get(name) is None for name in names):
            return
        prompts, completions, token_ids = (list(arguments[name]) for name in names)
        rows = len(token_ids)
        first = int(trainer.accelerator.process_index) * rows
        all_rows = int(trainer.accelerator.num_processes) * rows
        if not isinstance(result, Tensor) or tuple(result.shape) != (all_rows, len(functions)):
            return
        abstained = {index: _abstained(function, answers.get(index), rows) for index, function in enumerate(functions)}
        known = {index: flags for index, flags in abstained.items() if flags is not None}
        rewards = result.detach()[first : first + rows].float()
        self._batches.append(Scored(prompts, completions, token_ids, rewards, known, first, all_rows))


def _of_samples(samples: Sequence[Any]) -> dict[str, Any]:
    """What ms-swift's samples hold, as TRL's method is given it. The tokens of several turns follow each other."""
    turns = [sample.response_token_ids for sample in samples]
    return {
        "prompts": [sample.messages[:-1] for sample in samples],
        "completions": [sample.messages[-1:] for sample in samples],
        "completion_ids_list": [
            [token for part in ids for token in (part if isinstance(part, Sequence) else [part])] for ids in turns
        ],
    }


def _observer(function: Any, answers: dict[int, Any], index: int) -> Any:
    """The function, with its answer noted; a reward model as it is."""
    if isinstance(function, torch.nn.Module):
        return function
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

        @functools.wraps(function)
        async def scored_later(*args: Any, **kwargs: Any) -> Any:
            answers[index] = answer = _readable(await function(*args, **kwargs))
            return answer

        return scored_later

    @functools.wraps(function)
    def scored(*args: Any, **kwargs: Any) -> Any:
        answers[index] = answer = _readable(function(*args, **kwargs))
        return answer

    return scored


def _readable(answer: Any) -> Any:
    return list(answer) if isinstance(answer, Iterator) else answer


def _abstained(function: Any, answer: Any, rows: int) -> list[bool] | None:
    """Where the answer is None, which a reward model cannot say; None where the answer cannot be read."""
    if isinstance(function, torch.nn.Module) or isinstance(answer, Tensor):
        return [False] * rows
    found = [] if answer is None else [value is None for value in answer]
    return found if len(found) == rows else None
