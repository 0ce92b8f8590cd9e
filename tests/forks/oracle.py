"""What a trainer's own tensors say of a rollout, in plain Python, under the keys of the store."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOGGED = {
    "rldk/train/loss": "loss",
    "rldk/grad/norm": "grad_norm",
    "rldk/update/learning_rate": "learning_rate",
}
"""Key to the name that a trainer logs the same number under."""


def note(path: Path, rollout: Mapping[str, Any]) -> None:
    """Add a rollout to a file: step, rewards, num_generations, advantages, lengths, and what else `numbers` reads."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(rollout) + "\n")


def expected(path: Path) -> dict[str, dict[int, float]]:
    """Key and step to what the rollouts of a file amount to."""
    series: dict[str, dict[int, float]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        rollout = json.loads(line)
        for key, value in numbers(rollout).items():
            series[key][rollout["step"]] = value
    return dict(series)


def numbers(rollout: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one rollout.

    Args:
        rollout: B `rewards`, `advantages` and `lengths`, `num_generations`; B `truncated`, and the log-probabilities of
            each completion's tokens under the policy that sampled and the reference, where they are known.
    """
    rewards, advantages, lengths = rollout["rewards"], rollout["advantages"], rollout["lengths"]
    size = rollout["num_generations"]
    groups = [rewards[begin : begin + size] for begin in range(0, len(rewards), size)]
    found = {
        **_spread("rldk/reward", rewards),
        "rldk/reward/min": min(rewards),
        "rldk/reward/max": max(rewards),
        "rldk/reward/group_std_mean": statistics.fmean(statistics.stdev(group) for group in groups),
        "rldk/reward/group_tied_fraction": statistics.fmean(len(set(group)) == 1 for group in groups),
        **_spread("rldk/advantage", advantages),
        "rldk/advantage/fraction_positive": statistics.fmean(value > 0 for value in advantages),
        "rldk/length/mean": statistics.fmean(lengths),
        "rldk/length/min": min(lengths),
        "rldk/length/max": max(lengths),
    }
    if rollout.get("truncated") is not None:
        found["rldk/length/truncated_fraction"] = statistics.fmean(map(bool, rollout["truncated"]))
    if rollout.get("policy") is not None and rollout.get("reference") is not None:
        rows = [_minus(p, r) for p, r in zip(rollout["policy"], rollout["reference"], strict=True)]
        tokens = [value for row in rows for value in row]
        found |= {
            "rldk/kl/ref_k1": statistics.fmean(tokens),
            "rldk/kl/ref_k2": statistics.fmean(value * value / 2 for value in tokens),
            "rldk/kl/ref_k3": statistics.fmean(math.exp(-value) - 1 + value for value in tokens),
            "rldk/kl/ref_per_sequence": statistics.fmean(math.fsum(row) for row in rows),
        }
    return found


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{name}/mean": statistics.fmean(values), f"{name}/std": statistics.stdev(values)}


def _minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]
