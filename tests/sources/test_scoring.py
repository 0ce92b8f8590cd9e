"""Which reward is whose: of all that was scored, of a part of it, of several batches, and from the logs alone."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.sources.generation import Generation
from rldk_tracking.sources.reward_functions import Scored
from rldk_tracking.sources.scoring import NOT_SCORED, candidates, reward_names, with_rewards, without_padding


def trainer(rank: int = 0, ranks: int = 1, **fields: Any) -> Any:
    rows = 2 * ranks
    logs = {
        "rewards": {
            "a": deque([9.0, *map(float, range(rows))], maxlen=64),
            "b": deque([math.nan] * rows, maxlen=64),
        },
        "prompt": deque(["old", *(f"p{row}" for row in range(rows))], maxlen=64),
        "completion": deque([[{"role": "assistant", "content": f"c{row}"}] for row in range(rows)], maxlen=64),
    }
    fields = {"_logs": logs, "reward_weights": torch.tensor([1.0, 0.5]), "reward_func_names": ["a", "b"], **fields}
    accelerator = SimpleNamespace(num_processes=ranks, process_index=rank)
    return SimpleNamespace(accelerator=accelerator, num_generations=2, **fields)


def generation() -> Generation:
    return Generation(0, {"completion_ids": torch.zeros(2, 3, dtype=torch.long)})


PAD = 0


def returned(prompts: list[list[int]], completions: list[list[int]]) -> Generation:
    """Rows as a trainer returns them: prompts padded on the left, completions on the right."""
    width, longest = max(map(len, prompts)), max(map(len, completions))
    output = {
        "prompt_ids": torch.tensor([[PAD] * (width - len(ids)) + ids for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.tensor([ids + [PAD] * (longest - len(ids)) for ids in completions]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in completions]),
    }
    return Generation(0, output, stop_ids=(1, PAD))


def batch(
    prompts: list[str], completions: list[list[int]], scores: list[float], rank: int = 0, ranks: int = 1
) -> Scored:
    rows = len(prompts)
    texts = [str(ids) for ids in completions]
    flags = {0: [math.isnan(score) for score in scores]}
    return Scored(
        prompts, texts, completions, torch.tensor(scores)[:, None], flags, first_row=rank * rows, all_rows=ranks * rows
    )


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 3), (2, 3)])
def test_from_the_logs_a_rank_has_its_own_rows_of_the_last_batch(rank: int, ranks: int) -> None:
    made = generation()
    assert with_rewards(made, trainer(rank, ranks), []) is None
    assert made.rewards["a"].tolist() == [2.0 * rank, 2.0 * rank + 1]
    assert made.rewards["b"].isnan().all() and made.abstained == {}
    assert made.weights == {"a": 1.0, "b": 0.5}
    assert made.prompts == (f"p{2 * rank}", f"p{2 * rank + 1}")
    assert made.completions == (f"c{2 * rank}", f"c{2 * rank + 1}")
    assert made.group_ids is not None and made.group_ids.tolist() == [rank, rank]
    assert (made.all_rows, made.groups) == (2 * ranks, ranks)


def test_the_logs_by_their_older_name() -> None:
    older, made = trainer(), generation()
    older._textual_logs = vars(older).pop("_logs")
    assert with_rewards(made, older, []) is None
    assert made.rewards["a"].tolist() == [0.0, 1.0] and made.prompts == ("p0", "p1")


def test_logs_that_hold_too_little_give_nothing() -> None:
    made = generation()
    with_rewards(made, trainer(_logs={"rewards": {"a": [1.0]}, "prompt": ["x"]}), [])
    assert made.rewards == {} and made.prompts is None and made.completions is None
    with_rewards(made, trainer(_logs=None), [])
    assert made.rewards == {}


def test_logs_of_other_completions_give_nothing() -> None:
    decoder = SimpleNamespace(batch_decode=lambda ids, skip_special_tokens: ["c0", "x"])
    made = generation()
    assert with_rewards(made, trainer(processing_class=decoder), []) == NOT_SCORED
    assert made.rewards == {} and made.group_ids is None and made.prompts is None
    assert made.completions == ("c0", "x")
    decoder.batch_decode = lambda ids, skip_special_tokens: ["c0", "c1"]
    made = generation()
    assert with_rewards(made, trainer(processing_class=decoder), []) is None and set(made.rewards) == {"a", "b"}


def test_logs_of_two_functions_of_one_name_give_nothing() -> None:
    made = generation()
    obstacle = with_rewards(made, trainer(reward_func_names=["a", "a"]), [])
    assert obstacle is not None and "one name" in obstacle and made.rewards == {}


@pytest.mark.parametrize("weights", [None, [1.0]])
def test_weights_that_do_not_fit_are_not_used(weights: Any) -> None:
    made = generation()
    with_rewards(made, trainer(reward_weights=weights), [])
    assert made.weights == {} and made.rewards


def test_names_are_made_different() -> None:
    assert reward_names(SimpleNamespace(reward_func_names=["a", "b", "a", "a"]), 4) == ["a", "b", "a-2", "a-3"]
    assert reward_names(SimpleNamespace(reward_func_names=["a", "a-2", "a"]), 3) == ["a", "a-2", "a-3"]
    assert reward_names(SimpleNamespace(), 2) == ["function-1", "function-2"]


def one_function(rank: int = 0, ranks: int = 1, num_generations: int = 2) -> Any:
    made = trainer(rank, ranks, reward_func_names=["a"], reward_weights=[2.0])
    made.num_generations = num_generations
    return made


def test_all_that_was_scored_in_its_order() -> None:
    made = returned([[5], [5], [6, 7], [6, 7]], [[2, 1], [3], [2, 1], [4, 4]])
    scored = batch(["p", "p", "q", "q"], [[2, 1], [3], [2, 1], [4, 4]], [0.0, 1.0, 2.0, math.nan], rank=1, ranks=2)
    assert with_rewards(made, one_function(1, 2), [scored]) is None
    assert made.rewards["a"].nan_to_num(-1).tolist() == [0.0, 1.0, 2.0, -1.0]
    assert made.abstained["a"].tolist() == [False, False, False, True]
    assert made.weights == {"a": 2.0}
    assert made.group_ids is not None and made.group_ids.tolist() == [2, 2, 3, 3]
    assert (made.all_rows, made.groups) == (8, 4)


def test_a_part_of_two_batches_in_another_order() -> None:
    first = batch(["p", "p", "q", "q"], [[2], [3], [2], [4]], [0.0, 1.0, 2.0, 3.0])
    second = batch(["r", "r", "p", "p"], [[5], [6], [7], [8]], [4.0, math.nan, 6.0, 7.0])
    made = returned([[20], [10], [30], [20], [10]], [[4], [7], [6], [2], [3]])
    assert with_rewards(made, one_function(), [first, second]) is None
    assert made.rewards["a"].nan_to_num(-1).tolist() == [3.0, 6.0, -1.0, 2.0, 1.0]
    assert made.abstained["a"].tolist() == [False, False, True, False, False]
    assert made.group_ids is not None and made.group_ids.tolist() == [1, 3, 2, 1, 0]
    assert made.groups == 4
    assert made.prompts == ("q", "p", "r", "q", "p") and made.completions == ("[4]", "[7]", "[6]", "[2]", "[3]")


def test_one_completion_in_two_groups_has_a_score_but_no_group() -> None:
    scored = [batch(["p", "p"], [[2], [3]], [0.5, 1.0]), batch(["p", "p"], [[2], [4]], [0.5, 2.0])]
    made = returned([[10], [10]], [[4], [2]])
    assert with_rewards(made, one_function(), scored) is None
    assert made.rewards["a"].tolist() == [2.0, 0.5] and made.group_ids is None


def test_completions_that_were_not_scored_have_no_rewards() -> None:
    decoder = SimpleNamespace(batch_decode=lambda ids, skip_special_tokens: [str(row.tolist()) for row in ids])
    made = returned([[10], [10]], [[2], [9]])
    fake = one_function()
    fake.processing_class = decoder
    assert with_rewards(made, fake, [batch(["p", "p"], [[2], [3]], [0.5, 1.0])]) == NOT_SCORED
    assert made.rewards == {} and made.group_ids is None and made.completions == ("[2]", "[9]")


def oracle(scored: list, returned: list, answers: list) -> list[set[int]] | None:
    """Every translation of prompts in turn; a row may be what it is in any of them under which all rows are there."""
    texts, tokens = sorted({prompt for prompt, _ in scored}), sorted({prompt for prompt, _ in returned})
    found: list[set[int]] = [set() for _ in returned]
    for chosen in itertools.product(texts, repeat=len(tokens)):
        meaning = dict(zip(tokens, chosen, strict=True))
        rows = [
            {index for index, row in enumerate(scored) if row == (meaning[prompt], completion)}
            for prompt, completion in returned
        ]
        if all(rows):
            found = [known | new for known, new in zip(found, rows, strict=True)]
    same = all(len({answers[index] for index in rows}) == 1 for rows in found)
    return found if same else None


@pytest.mark.parametrize("seed", range(60))
def test_equals_trying_every_translation(seed: int) -> None:
    draw = random.Random(seed)
    scored = [(f"p{draw.randrange(3)}", (draw.randrange(3), draw.randrange(3))) for _ in range(8)]
    answers = [draw.randrange(3) if draw.random() < 0.3 else 0 for _ in scored]
    rows = draw.sample(range(8), draw.randrange(1, 8))
    returned = [((int(scored[row][0][1]),), scored[row][1]) for row in rows]
    if draw.random() < 0.2:
        returned.append(((9,), (7, 7)))
    found = candidates(scored, returned, answers)
    assert (None if found is None else [set(one) for one in found]) == oracle(scored, returned, answers)


def test_prompts_tell_equal_completions_apart() -> None:
    scored = [("one", (1,)), ("one", (2,)), ("two", (1,)), ("two", (3,))]
    assert candidates(scored, [("b", (1,)), ("b", (3,))], [0, 1, 2, 3]) == [[2], [3]]
    assert candidates(scored, [("b", (1,))], [0, 1, 2, 3]) is None
    assert candidates(scored, [("b", (1,))], [0, 1, 0, 3]) == [[0, 2]]


def test_padding_is_taken_off_the_end_alone() -> None:
    assert without_padding([0, 3, 0, 4, 0, 0], 0) == (0, 3, 0, 4)
    assert without_padding([0, 0], 0) == () and without_padding([3, 0], None) == (3, 0)
