"""Which of the completions that were scored each completion is that a trainer goes on with."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Tokens = tuple[int, ...]


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
