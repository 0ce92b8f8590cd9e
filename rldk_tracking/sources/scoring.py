"""Which reward belongs to which completion that a GRPO or RLOO trainer goes on with, and to which group it belongs.

A subclass may leave out some of what was scored, or sample again: then the last rows that were scored are not those
that are trained on. So the tokens of the completions that were scored are compared with those that are returned. Where
the reward functions are not seen, the trainer's `_logs` are read, and their texts compared.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.sources.generation import Generation
from rldk_tracking.sources.reward_functions import Scored

Tokens = tuple[int, ...]

TEXTS = ("prompts", "completions")
NOT_SCORED = (
    "it trains on completions that are not those its reward functions have just scored, and which score is whose "
    "cannot be told"
)


def logs_of(trainer: Any) -> Mapping[str, Any]:
    """Texts, rewards and advantages that the trainer keeps; empty where it keeps none."""
    logs = getattr(trainer, "_logs", getattr(trainer, "_textual_logs", None))  # the latter up to TRL 0.19
    return logs if isinstance(logs, Mapping) else {}


def with_rewards(generation: Generation, trainer: Any, batches: Sequence[Scored]) -> str | None:
    """Fill in rewards, groups and texts of a rank's completions.

    Args:
        generation: what the trainer goes on with.
        trainer: whose `_logs` hold texts, and rewards where the functions were not seen.
        batches: what was scored for it, in order.

    Returns:
        Why its rewards cannot be told by completion; None where they can.
    """
    generation.num_generations = getattr(trainer, "num_generations", None)
    generation.all_rows = len(generation.token_ids) * int(trainer.accelerator.num_processes)
    if not batches:
        return _from_logs(generation, trainer)
    padding = generation.stop_ids[-1] if generation.stop_ids else None
    returned = [without_padding(row, padding) for row in generation.token_ids.tolist()]
    scored = [without_padding(row, padding) for batch in batches for row in batch.token_ids]
    rewards = torch.cat([batch.rewards for batch in batches])
    rows: list[list[int]] | None = [[index] for index in range(len(scored))]
    is_whole = returned == scored
    if not is_whole:
        rows = _possible_rows(generation, batches, returned, scored, rewards)
    if rows is None:
        generation.completions = _decoded(generation, trainer)
        return NOT_SCORED
    generation.all_rows = sum(batch.all_rows for batch in batches)
    places = [one[0] for one in rows]
    names = reward_names(trainer, rewards.shape[1])
    own = rewards if is_whole else rewards[torch.tensor(places, device=rewards.device)]
    generation.rewards = {name: own[:, index] for index, name in enumerate(names)}
    generation.abstained = _abstentions(batches, places, names)
    generation.weights = weights_of(trainer, names)
    generation.group_ids = _groups(batches, rows, generation.num_generations)
    if is_whole:
        _texts_from_logs(generation, trainer)
    else:
        prompts, completions = ([text for batch in batches for text in getattr(batch, name)] for name in TEXTS)
        generation.prompts = tuple(text_of(prompts[place]) for place in places)
        generation.completions = tuple(text_of(completions[place]) for place in places)
    return None


def reward_names(trainer: Any, count: int) -> list[str]:
    """The reward functions' names, each different: the second of one name gets a number, "score-2"."""
    known = [str(name) for name in getattr(trainer, "reward_func_names", ())]
    found: list[str] = []
    for name in known if len(known) == count else [f"function-{index + 1}" for index in range(count)]:
        number, distinct = 1, name
        while distinct in found:
            number += 1
            distinct = f"{name}-{number}"
        found.append(distinct)
    return found


def candidates(
    scored: Sequence[tuple[Hashable, Tokens]],
    returned: Sequence[tuple[Hashable, Tokens]],
    answers: Sequence[Hashable],
) -> list[list[int]] | None:
    """The scored rows that each returned row may be, all of them with the same answer.

    Prompts of the two may be written differently, as text and as tokens. Which stands for which follows from the
    completions: one prompt of the returned rows must be one prompt of the scored ones in all its rows.

    Args:
        scored: prompt and completion of each scored row.
        returned: prompt and completion of each returned row.
        answers: what each scored row was scored with.

    Returns:
        One list for each returned row; None where a row was not scored, or may be rows with different answers.
    """
    by_completion: dict[Tokens, list[int]] = {}
    for index, (_, completion) in enumerate(scored):
        by_completion.setdefault(completion, []).append(index)
    meant: dict[Hashable, set[Hashable]] = {}
    for prompt, completion in returned:
        prompts = {scored[index][0] for index in by_completion.get(completion, ())}
        meant[prompt] = meant.get(prompt, prompts) & prompts
    found = []
    for prompt, completion in returned:
        rows = [index for index in by_completion.get(completion, ()) if scored[index][0] in meant[prompt]]
        if len({answers[index] for index in rows}) != 1:
            return None
        found.append(rows)
    return found


def without_padding(token_ids: Sequence[int], padding: int | None) -> Tokens:
    """The tokens up to the last one that is not padding."""
    end = len(token_ids)
    while end and token_ids[end - 1] == padding:
        end -= 1
    return tuple(token_ids[:end])


def _possible_rows(
    generation: Generation,
    batches: Sequence[Scored],
    returned: Sequence[Tokens],
    scored: Sequence[Tokens],
    rewards: Tensor,
) -> list[list[int]] | None:
    texts = [repr(prompt) for batch in batches for prompt in batch.prompts]
    masks = generation.output["prompt_mask"].tolist()
    prompts = [
        tuple(token for token, is_there in zip(row, mask, strict=True) if is_there)
        for row, mask in zip(generation.output["prompt_ids"].tolist(), masks, strict=True)
    ]
    answers = [repr(row) for row in rewards.tolist()]  # in which NaN equals NaN
    return candidates(list(zip(texts, scored, strict=True)), list(zip(prompts, returned, strict=True)), answers)


def _abstentions(batches: Sequence[Scored], places: Sequence[int], names: Sequence[str]) -> dict[str, Tensor]:
    """(B,) bool of each function of which it is known in every batch."""
    found = {}
    for index, name in enumerate(names):
        if all(index in batch.abstained for batch in batches):
            flags = [flag for batch in batches for flag in batch.abstained[index]]
            found[name] = torch.tensor([flags[place] for place in places], dtype=torch.bool)
    return found


def _groups(batches: Sequence[Scored], rows: Sequence[Sequence[int]], num_generations: int | None) -> Tensor | None:
    """(B,) numbers of the groups; None where a row may be of several."""
    if not num_generations:
        return None
    numbers: list[int] = []
    begin = 0
    for batch in batches:
        numbers += [begin + (batch.first_row + row) // num_generations for row in range(len(batch.token_ids))]
        begin += -(-batch.all_rows // num_generations)
    groups = [{numbers[place] for place in one} for one in rows]
    return torch.tensor([min(one) for one in groups]) if all(len(one) == 1 for one in groups) else None


def _from_logs(generation: Generation, trainer: Any) -> str | None:
    """What `_logs` hold, which are gathered over ranks: they end with all ranks' rows of this batch, in order."""
    logs, rows = logs_of(trainer), len(generation.token_ids)
    first = int(trainer.accelerator.process_index) * rows
    if generation.num_generations:
        generation.group_ids = torch.arange(first, first + rows) // generation.num_generations
    if not logs:
        return None
    _texts_from_logs(generation, trainer)
    decoded = _decoded(generation, trainer)
    if decoded is not None and generation.completions not in (None, decoded):
        generation.group_ids = generation.prompts = None
        generation.completions = decoded
        return NOT_SCORED
    names = list(getattr(trainer, "reward_func_names", ()))
    if len(set(names)) < len(names):
        return "two of its reward functions have one name, and its logs hold one series for both"
    for name, values in (logs.get("rewards") or {}).items():
        if len(values) >= generation.all_rows:
            own = list(values)[-generation.all_rows :][first : first + rows]
            generation.rewards[name] = torch.tensor(own, dtype=torch.float32)
    weights = weights_of(trainer, names)
    generation.weights = {name: weights[name] for name in generation.rewards if name in weights}
    return None


def _texts_from_logs(generation: Generation, trainer: Any) -> None:
    """The last rows' texts, where the logs have as many."""
    logs, rows = logs_of(trainer), len(generation.token_ids)
    first, all_rows = int(trainer.accelerator.process_index) * rows, generation.all_rows
    for name, attribute in zip(("prompt", "completion"), TEXTS, strict=True):
        texts = logs.get(name) or ()
        if len(texts) >= all_rows:
            own = list(texts)[-all_rows:][first : first + rows]
            setattr(generation, attribute, tuple(text_of(text) for text in own))


def _decoded(generation: Generation, trainer: Any) -> tuple[str, ...] | None:
    """The completions' texts as the trainer decodes them; None without a tokenizer."""
    decode = getattr(getattr(trainer, "processing_class", None), "batch_decode", None)
    return None if decode is None else tuple(decode(generation.token_ids, skip_special_tokens=True))


def weights_of(trainer: Any, names: Sequence[str]) -> dict[str, float]:
    """Each function's weight; empty where the trainer has not one for each."""
    weights = getattr(trainer, "reward_weights", None)
    if isinstance(weights, Tensor):
        weights = weights.tolist()
    if weights is None or len(weights) != len(names):
        return {}
    return {name: float(weight) for name, weight in zip(names, weights, strict=True)}


def text_of(message: Any) -> str:
    """A text, or the last turn of a conversation."""
    if isinstance(message, list) and message:
        message = message[-1]
    if isinstance(message, Mapping):
        message = message.get("content")
    return message if isinstance(message, str) else str(message)
