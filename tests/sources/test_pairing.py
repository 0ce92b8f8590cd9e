"""Against all ways to assign rows, and what each may not do."""

from __future__ import annotations

import itertools
import random

import pytest

from rldk_tracking.sources.pairing import candidates, without_padding


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
