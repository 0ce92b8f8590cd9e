"""Rewards, ties and diversity out of the completions that TRL writes with `log_completions=True`.

A file holds one row a completion: `step`, `prompt`, `completion`, one column a reward function, `advantage`. The
weights of the functions are not in it, so that the reward of several functions is their plain sum.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOT_A_REWARD = {"step", "prompt", "completion", "advantage", "images", "completion_ids", "prompt_ids"}


def read_completions(folder: Path) -> Iterator[dict[str, Any]]:
    """One entry a step under catalogue keys, steps in order.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("Reading completions needs pyarrow: pip install pyarrow.") from error
    steps: dict[int, list[dict[str, Any]]] = {}
    for path in sorted(path for path in folder.glob("*.parquet") if path.is_file()):
        for row in parquet.read_table(path).to_pylist():
            step = row.get("step")
            steps.setdefault(int(step) if _known(step) else 0, []).append(row)
    for step in sorted(steps):
        yield {"step": step} | summary(steps[step])


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The keys that one step's completions give."""
    functions = [
        name
        for name in rows[0]
        if name not in NOT_A_REWARD and any(isinstance(row[name], (int, float)) for row in rows)
    ]
    different = {str(row.get("completion")) for row in rows}
    found: dict[str, float] = {"rldk/diversity/unique_fraction": len(different) / len(rows)}
    groups: dict[str, list[float]] = {}
    for row in rows:
        scores = [row[name] for name in functions if _known(row[name])]
        if scores:
            groups.setdefault(str(row.get("prompt")), []).append(float(sum(scores)))
    rewards = [score for group in groups.values() for score in group]
    if not rewards:
        return found
    found["rldk/reward/mean"] = statistics.fmean(rewards)
    found["rldk/reward/min"], found["rldk/reward/max"] = min(rewards), max(rewards)
    if len(rewards) > 1:
        found["rldk/reward/std"] = statistics.stdev(rewards)
    several = [group for group in groups.values() if len(group) > 1]
    if several:
        found["rldk/reward/group_tied_fraction"] = sum(len(set(group)) == 1 for group in several) / len(several)
        found["rldk/reward/group_std_mean"] = statistics.fmean(statistics.stdev(group) for group in several)
    for name in functions:
        values = [float(row[name]) for row in rows if _known(row[name])]
        if values:
            found[f"rldk/reward/function/{name}/mean"] = statistics.fmean(values)
    return found


def _known(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value
