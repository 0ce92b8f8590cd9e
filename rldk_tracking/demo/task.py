"""A task with a verifiable reward: say the digit of the prompt four times, then stop.

A prompt is one digit, said one to three times, and a colon (`"77:"`). Each expected digit earns a quarter, up to four,
and a completion of more than four characters is diluted: `"7777"` earns 1, `"7071"` earns 0.5, `"77777777"` earns 0.5
and an empty completion 0.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

DIGITS = "0123456789"
ASK = ":"
WANTED = 4
LONGEST_PROMPT = 4
LENGTHS = (2, 3, 4, 4, 5, 6, 7)


def prompts(n: int, seed: int = 0) -> list[str]:
    """n prompts of two to four characters."""
    draw = random.Random(seed)  # noqa: S311
    return [draw.choice(DIGITS) * draw.randint(1, LONGEST_PROMPT - 1) + ASK for _ in range(n)]


def expected_digit(prompt: str) -> str:
    """The digit that the completion of this prompt should consist of."""
    return prompt[0]


def reward(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """One number in [0, 1] a completion, as the module says."""
    return [
        min(completion.count(expected_digit(prompt)), WANTED) / max(len(completion), WANTED)
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def demonstrations(n: int, hit_rate: float, seed: int = 0) -> list[tuple[str, str]]:
    """n pairs of a prompt and a mediocre completion of two to seven characters, for a supervised warm start.

    Args:
        hit_rate: probability that a character is the expected digit rather than any digit.
    """
    draw = random.Random(seed)  # noqa: S311
    pairs = []
    for prompt in prompts(n, seed):
        length = draw.choice(LENGTHS)
        text = "".join(
            expected_digit(prompt) if draw.random() < hit_rate else draw.choice(DIGITS) for _ in range(length)
        )
        pairs.append((prompt, text))
    return pairs
