"""What the per-sequence columns of a GRPO step cost, against plain sums of the tensors that they are computed from.

    python tests/benchmarks/columns.py [--rows 256] [--tokens 1024] [--repeats 100]

A plain sum is `tensor.sum()` of each (B, T) tensor of the rollout and of the update, once. Times are of one thread's
processor, the fastest of the repeats, in which sums and columns take turns: another process on the machine slows both
down. Operations are what torch dispatches, views too, on the host and, counted with tensors without data, on any other
device, where each but the views starts a kernel. Tails are what the 99th percentiles over tokens need.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rldk_tracking.metrics.columns import tail_of
from rldk_tracking.probes import steps as module
from rldk_tracking.rollout import PolicyUpdate, Rollout

GROUP = 8
"""Completions of one prompt."""
VOCABULARY = 50_000
Piece = Callable[[Rollout, PolicyUpdate], object]


class Operations(TorchDispatchMode):
    """Counts what torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Cost:
    """Of one piece of the work.

    Attributes:
        seconds: of processor time.
        sums: the same in plain sums of the tensors.
        operations: on the host.
        on_device: on another device.
    """

    seconds: float
    sums: float
    operations: int
    on_device: int


def batch(rows: int, tokens: int, seed: int = 0) -> tuple[Rollout, PolicyUpdate]:
    """A GRPO step with two reward functions and completions of any length."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    mask = torch.arange(tokens) < lengths[:, None]
    logprobs = -normal(rows, tokens).abs()
    rollout = Rollout(
        mask=mask,
        token_ids=torch.randint(0, VOCABULARY, (rows, tokens), generator=generator),
        logprobs=logprobs,
        ref_logprobs=logprobs - 0.1 * normal(rows, tokens),
        entropy=normal(rows, tokens).abs(),
        scores=normal(rows),
        rewards={"correct": normal(rows), "format": normal(rows)},
        reward_weights={"correct": 1.0, "format": 0.5},
        advantages=normal(rows),
        group_ids=torch.arange(rows) // GROUP,
        truncated=lengths == tokens,
    )
    update = PolicyUpdate(
        mask=mask.clone(),
        new_logprobs=logprobs + 0.1 * normal(rows, tokens),
        old_logprobs=logprobs.clone(),
        advantages=normal(rows),
        entropy=normal(rows, tokens).abs(),
        clip_low=0.2,
        clip_high=0.2,
    )
    return rollout, update


def of_all(rollout: Rollout, update: PolicyUpdate) -> None:
    """Every column, which is what is measured against the sums."""
    module.rollout_columns(rollout)
    module.update_columns(update)


def tails(rollout: Rollout, update: PolicyUpdate) -> None:
    for values, mask in module.rollout_tails(rollout).values():
        tail_of(values, mask)


def pieces() -> dict[str, Piece]:
    """The work, piece by piece; "all" is all of it but the tails."""
    groups: dict[str, Piece] = {
        str(group.__name__).rpartition(".")[2]: lambda rollout, update, group=group: group.columns(rollout)
        for group in module.ROLLOUT_GROUPS
    }
    return groups | {"update": lambda _, update: module.update_columns(update), "all": of_all, "tails": tails}


@torch.no_grad()
def measure(rows: int, tokens: int, repeats: int, names: tuple[str, ...] = ()) -> dict[str, Cost]:
    """What each piece, or each of those named, costs."""
    rollout, update = batch(rows, tokens)
    parts = [value for part in (rollout, update) for value in tensors(part).values() if value.ndim == 2]
    elsewhere = without_data(rollout), without_data(update)
    # A training process has freed larger tensors than these, after which malloc keeps what is given back to it.
    torch.zeros(30 * 2**18)
    found = {}
    for name, piece in pieces().items():
        if names and name not in names:
            continue
        piece(rollout, update)
        sums, seconds = [], []
        for _ in range(repeats):
            sums.append(timed(lambda: [part.sum() for part in parts]))
            seconds.append(timed(lambda piece=piece: piece(rollout, update)))
        fastest = min(seconds)
        counts = operations(piece, rollout, update), operations(piece, *elsewhere)
        found[name] = Cost(fastest, fastest / min(sums), *counts)
    return found


def operations(piece: Piece, rollout: Rollout, update: PolicyUpdate) -> int:
    """How many a piece takes."""
    with Operations() as counted:
        piece(rollout, update)
    return counted.count


def timed(work: Callable[[], object]) -> float:
    """Seconds of this thread's processor time."""
    before = time.thread_time()
    work()
    return time.thread_time() - before


def tensors(part: Rollout | PolicyUpdate) -> dict[str, Tensor]:
    """The fields that are tensors."""
    fields = {name: getattr(part, name) for name in part.__dataclass_fields__}
    return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


def without_data(part: Any) -> Any:
    """The same with tensors that have shapes and nothing else: whatever asks one for a value fails."""
    changed: dict[str, Any] = {name: value.to("meta") for name, value in tensors(part).items()}
    if isinstance(part, Rollout):
        changed["rewards"] = {name: values.to("meta") for name, values in part.rewards.items()}
    return replace(part, **changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.rows} completions of at most {options.tokens} tokens")
    print(f"{'':10} {'ms':>8} {'sums':>8} {'operations':>11} {'on a device':>12}")
    for name, cost in measure(options.rows, options.tokens, options.repeats).items():
        counts = f"{cost.operations:11} {cost.on_device:12}"
        print(f"{name:10} {1e3 * cost.seconds:8.3f} {cost.sums:8.1f} {counts}")


if __name__ == "__main__":
    main()
