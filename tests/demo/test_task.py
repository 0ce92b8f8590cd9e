"""The task and its reward."""

from __future__ import annotations

import pytest

from rldk_tracking.demo.task import ASK, DIGITS, LONGEST_PROMPT, demonstrations, expected_digit, prompts, reward


@pytest.mark.parametrize(
    ("completion", "earned"),
    [("7777", 1.0), ("7071", 0.5), ("7", 0.25), ("", 0.0), ("77777777", 0.5), ("7777x", 0.8), ("1234", 0.0)],
)
def test_each_expected_digit_earns_a_quarter_and_length_dilutes(completion: str, earned: float) -> None:
    assert reward(["77:"], [completion]) == [earned]


def test_rewards_belong_to_their_prompts() -> None:
    assert reward(["1:", "22:"], ["1111", "1111"], anything="else") == [1.0, 0.0]


def test_prompts_are_reproducible_and_well_formed() -> None:
    made = prompts(100, seed=1)
    assert made == prompts(100, seed=1) != prompts(100, seed=2)
    assert all(p.endswith(ASK) and 2 <= len(p) <= LONGEST_PROMPT and set(p[:-1]) == {p[0]} for p in made)
    assert {expected_digit(p) for p in made} == set(DIGITS)


@pytest.mark.parametrize("hit_rate", [0.0, 0.4, 1.0])
def test_demonstrations_are_as_good_as_they_are_asked_to_be(hit_rate: float) -> None:
    pairs = demonstrations(2000, hit_rate)
    hits = sum(text.count(expected_digit(prompt)) for prompt, text in pairs)
    share = hits / sum(len(text) for _, text in pairs)
    # A tenth of the other characters is the expected digit by chance.
    assert share == pytest.approx(hit_rate + (1 - hit_rate) / 10, abs=0.03)
    assert {len(text) for _, text in pairs} <= set(range(2, 8))
