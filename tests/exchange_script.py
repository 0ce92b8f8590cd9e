"""Run by test_ranks.py under torchrun: every rank takes its share of one global batch and merges it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from rldk_tracking.keys import CATALOGUE
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Part, Ranks, Schema
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.row import merge_scalars

ROWS, TOKENS, GROUP = 12, 9, 4


def global_batch() -> tuple[Rollout, PolicyUpdate]:
    """The same on every rank. Row 5 is empty, row 7 was scored by no function."""
    g = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, TOKENS + 1, (ROWS,), generator=g)
    lengths[5] = 0
    mask = torch.arange(TOKENS) < lengths[:, None]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    logprobs = -normal(ROWS, TOKENS).abs()
    scores = normal(ROWS).round(decimals=1)
    scores[7] = torch.nan
    partly = normal(ROWS)
    partly[::3] = torch.nan
    rollout = Rollout(
        mask=mask,
        token_ids=torch.randint(0, 6, (ROWS, TOKENS), generator=g),
        logprobs=logprobs,
        ref_logprobs=logprobs - 0.1 * normal(ROWS, TOKENS),
        sampler_logprobs=logprobs - 0.05 * normal(ROWS, TOKENS),
        scores=scores,
        rewards={"accuracy": scores, "format": partly},
        reward_weights={"accuracy": 1.0, "format": 0.5},
        values=normal(ROWS, TOKENS),
        returns=normal(ROWS, TOKENS),
        advantages=normal(ROWS, TOKENS),
        group_ids=torch.arange(ROWS) // GROUP,
        truncated=lengths == TOKENS,
    )
    update = PolicyUpdate(
        mask=mask,
        new_logprobs=logprobs + 0.2 * normal(ROWS, TOKENS),
        old_logprobs=logprobs,
        advantages=normal(ROWS),
        clip_low=0.2,
        clip_high=0.2,
    )
    return rollout, update


def share(batch: Rollout | PolicyUpdate, rows: slice) -> dict[str, object]:
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return {
        name: {k: v[rows] if torch.is_tensor(v) else v for k, v in value.items()}
        if isinstance(value, dict)
        else value[rows]
        if torch.is_tensor(value)
        else value
        for name, value in fields.items()
    }


def main(output: str) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    # The last of three ranks has nothing at all in the second step, and the first of two has most.
    splits = {1: [0, ROWS], 2: [0, 10, ROWS], 3: [0, 7, ROWS, ROWS]}[world]
    rows = slice(splits[rank], splits[rank + 1])
    calls = []
    original = dist.all_gather_into_tensor
    dist.all_gather_into_tensor = lambda *a, **k: (calls.append(1), original(*a, **k))[1]
    schema = Schema(catalogue.ROLLOUT_COLUMNS, catalogue.UPDATE_COLUMNS, catalogue.TAILS, tuple(CATALOGUE))
    ranks = Ranks(schema, rows=ROWS)
    rollout, update = global_batch()
    for _step in range(2):
        part = Part(scalars={"rldk/resources/host_rss_gib": 1.0 + rank})
        if rows.stop > rows.start:
            mine = Rollout(**share(rollout, rows))
            part.rollout = catalogue.rollout_columns(mine)
            part.tails = catalogue.rollout_tails(mine)
            part.update = catalogue.update_columns(PolicyUpdate(**share(update, rows)))
        part.names = catalogue.names(rollout)
        merged = ranks.merge(part)
    row = merge_scalars(merged.scalars) | catalogue.compute(merged.rollout, merged.update)
    everyone: list[dict[str, float]] = [{} for _ in range(world)]
    dist.all_gather_object(everyone, row)
    if rank == 0:
        same = all(
            other.keys() == row.keys() and np.allclose(list(other.values()), list(row.values())) for other in everyone
        )
        Path(output).write_text(json.dumps({"row": row, "collectives": len(calls), "same_on_all": same}))
    dist.barrier()  # gloo aborts a rank whose peer goes first
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
