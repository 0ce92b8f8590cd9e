"""What every rank does in a scenario of test_ranks.py: real processes with a gloo group, one function a scenario.

Each returns what test_ranks.py is to see of this rank. A scenario ends with a barrier of the job's own group where all
ranks live to see it: the training goes on, whatever became of the diagnostics.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from rldk_tracking import ranks as module
from rldk_tracking.metrics import process_group, reward
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.probes.steps import (
    ROLLOUT_COLUMNS,
    TAILS,
    UPDATE_COLUMNS,
    rollout_columns,
    rollout_tails,
    row_of,
    update_columns,
)
from rldk_tracking.ranks import Merged, Part, Ranks, Schema
from rldk_tracking.rollout import PolicyUpdate, Rollout

ROWS, TOKENS, GROUP = 12, 9, 4
LIMIT = timedelta(seconds=40)
SPLITS = {
    # Where each rank's share begins and ends, one list a step: even, the last or the first without anything, uneven.
    1: [[0, 12], [0, 12], [0, 12], [0, 11]],
    2: [[0, 6, 12], [0, 12, 12], [0, 0, 12], [0, 4, 11]],
    3: [[0, 4, 8, 12], [0, 7, 12, 12], [0, 0, 5, 12], [0, 4, 8, 11]],
}
SCHEMA = Schema(ROLLOUT_COLUMNS, UPDATE_COLUMNS, TAILS, tuple(CATALOGUE))
SMALL = Schema(("a", "b"), ("c",), ("t",), ("rldk/train/loss", "rldk/resources/host_rss_gib", module.SPREAD))


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


def part_of(rows: slice, rank: int) -> Part:
    """What a rank knows of its share; the second one has no probe."""
    rollout, update = global_batch()
    on_device = torch.tensor(0.5 * rank)
    part = Part(scalars={"rldk/resources/host_rss_gib": 1.0 + rank, "rldk/train/loss": on_device, "mine": float(rank)})
    if rows.stop > rows.start:
        mine = Rollout(**share(rollout, rows))
        part.rollout = rollout_columns(mine)
        part.tails = rollout_tails(mine)
        part.update = update_columns(PolicyUpdate(**share(update, rows)))
        part.names = reward.names(rollout)
    if rank == 1:
        del part.scalars["rldk/train/loss"]
    else:
        part.probe = torch.tensor([1.0, torch.nan, 3.0 + rank])
    return part


def small(rank: int, rows: int = 2) -> Part:
    """A part with a few numbers that say whose they are."""
    lines = 10.0 * rank + torch.arange(rows)
    return Part({"a": lines}, {"c": -lines}, {"t": (lines[:, None], torch.ones(rows, 1))}, {"rldk/train/loss": rank})


def plain_part(part: Part) -> dict[str, Any]:
    return {
        "rollout": {name: column.tolist() for name, column in part.rollout.items()},
        "update": {name: column.tolist() for name, column in part.update.items()},
        "tails": {name: values[mask.bool()].tolist() for name, (values, mask) in part.tails.items()},
        "scalars": {key: float(value) for key, value in part.scalars.items()},
        "probe": None if part.probe is None else part.probe.tolist(),
    }


def plain(merged: Merged | None) -> dict[str, Any] | None:
    if merged is None:
        return None
    return {
        "rollout": {name: column.tolist() for name, column in merged.rollout.columns.items()},
        "update": {name: column.tolist() for name, column in merged.update.columns.items()},
        "p99": {name: tail.quantile(0.99) for name, tail in merged.rollout.tails.items()},
        "names": merged.rollout.names,
        "scalars": merged.scalars,
        "probes": merged.probes,
    }


def about(ranks: Ranks) -> dict[str, Any]:
    return {name: getattr(ranks, name) for name in ("rank", "job_size", "world_size", "is_alone_of", "writes")}


def exchange(rank: int, world: int) -> dict[str, Any]:
    """A few steps of one global batch that is shared differently in each."""
    calls: list[str] = []
    ranks = Ranks(SCHEMA, rows=ROWS)
    with counted(calls):
        steps = []
        for splits in SPLITS[world]:
            part = part_of(slice(splits[rank], splits[rank + 1]), rank)
            transfer = ranks.start(part)
            assert transfer.ready
            merged = transfer.merged()
            row = None if merged is None else row_of(merged)
            steps.append(
                {"part": plain_part(part), "merged": plain(merged), "row": row, "flags": ranks.agree(rank + 2)}
            )
    return about(ranks) | {"steps": steps, "calls": calls}


def counted(calls: list[str]) -> Any:
    """Write down which collectives are asked for."""

    def writing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **named: (calls.append(name), original(*args, **named))[1]

    names = (
        "gather",
        "all_reduce",
        "broadcast",
        "all_gather",
        "all_gather_into_tensor",
        "barrier",
        "all_gather_object",
    )
    return mock.patch.multiple(dist, **{name: writing(name, getattr(dist, name)) for name in names})


def handshake(
    rank: int,
    world: int,
    having: list[int],
    wait_s: float = 2.0,
    late_s: tuple[float, ...] = (0.0, 0.0, 0.0),
    other: int | None = None,
    failing: int | None = None,
    connects: bool = False,
    probe: int | None = None,
    gloo: bool = True,
) -> dict[str, Any]:
    """Only some ranks have the callback, or come late, or of another version, or cannot connect."""
    found: dict[str, Any] = {}
    if rank in having:
        time.sleep(late_s[rank])
        process_group.CONNECT_S = 2.0
        begin = time.monotonic()
        with mock.patch.object(dist, "new_group", failing_at(connects) if rank == failing else dist.new_group):
            schema = SMALL if rank != other else replace(SMALL, update=("d",))
            ranks = Ranks(schema, rows=2, probe=probe, handshake_s=wait_s)
        found = about(ranks) | {"seconds": time.monotonic() - begin}
        calls: list[str] = []
        with counted(calls):
            found["merged"] = plain(ranks.start(small(rank)).merged())
            found["flags"] = ranks.agree(3)
            if not ranks.writes and ranks.world_size == 1:
                ranks.start(Part({"a": "not looked at"}))  # type: ignore[dict-item]
        found |= {"calls": calls, "groups": len(dist.distributed_c10d._world.pg_map)}
    dist.barrier()
    return found


def failing_at(connects: bool) -> Callable[..., None]:
    """Instead of making a group, or when it is made."""
    original = dist.new_group

    def failure(*arguments: Any, **named: Any) -> None:
        if connects:
            original(*arguments, **named)
        raise RuntimeError("no address")

    return failure


def fault(rank: int, world: int) -> dict[str, Any]:
    """The second rank cannot pack its numbers in the second and third step of four."""
    ranks, merged = Ranks(SMALL, rows=2), []
    for step in range(4):
        part = small(rank)
        if rank == 1 and step in (1, 2):
            part.rollout["a"] = "no"  # type: ignore[assignment]
        merged.append(plain(ranks.start(part).merged()))
        ranks.agree(0)
    dist.barrier()
    return {"merged": merged}


def more_rows(rank: int, world: int) -> dict[str, Any]:
    """The last rank delivers two rows in the first step, four in the others; all said one."""
    ranks, merged = Ranks(SMALL, rows=1), []
    for step in range(3):
        merged.append(plain(ranks.start(small(rank, 4 if step and rank == world - 1 else 2)).merged()))
    dist.barrier()
    return {"merged": merged}


def many_rows(rank: int, world: int) -> dict[str, Any]:
    """Seven rows a rank where twelve of a step are merged."""
    with mock.patch.object(module, "MERGED_ROWS", 12):
        merged = plain(Ranks(SMALL, rows=7, probe=0).start(small(rank, 7)).merged())
    dist.barrier()
    return {"merged": [merged]}


def trainings(rank: int, world: int) -> dict[str, Any]:
    """Three trainings in the same processes, each with more rows than the one before."""
    found, groups = [], []
    for number in range(3):
        ranks = Ranks(SMALL, rows=1 + number, probe=0)
        found.append(plain(ranks.start(small(rank, 1 + number)).merged()))
        del ranks
        groups.append(len(process_group._GROUPS))
    dist.barrier()
    return {"merged": found, "groups": groups}


def waiting(rank: int, world: int) -> dict[str, Any]:
    """The last rank comes a second late in the second step, rank 0 in the third; rank 0 then works for half as long."""
    ranks, waited, merged = Ranks(SMALL, rows=2), [], None
    for step in range(4):
        part = small(rank)
        part.scalars[module.SPREAD] = ranks.waited
        if (step, rank) in ((1, world - 1), (2, 0)):
            time.sleep(1.0)
        merged = ranks.start(part).merged()
        if rank == 0:
            time.sleep(0.5)
        ranks.agree(0)
        waited.append(ranks.waited)
        dist.barrier()
    return {"waited": waited, "merged": plain(merged)}


def death(rank: int, world: int) -> dict[str, Any]:
    """The last rank is gone after the first step."""
    ranks, merged, flags = Ranks(SMALL, rows=2), [], []
    for step in range(3):
        if step == 1 and rank == world - 1:
            os._exit(0)
        merged.append(plain(ranks.start(small(rank)).merged()))
        flags.append(ranks.agree(1))
    return about(ranks) | {"merged": merged, "flags": flags}


def broken(rank: int, world: int) -> dict[str, Any]:
    """The gather of the second step fails on rank 0, which all others wait for."""
    ranks, merged, gather = Ranks(SMALL, rows=2), [], dist.gather

    def failing(*_: Any, **__: Any) -> None:  # no mock, which would keep the group that it was given
        raise RuntimeError("reset")

    begin = time.monotonic()
    for step in range(3):
        dist.gather = failing if (step, rank) == (1, 0) else gather
        merged.append(plain(ranks.start(small(rank)).merged()))
        ranks.agree(0)
    seconds = time.monotonic() - begin
    dist.barrier()
    return {"merged": merged, "seconds": seconds, "world_size": ranks.world_size}


def settings(rank: int, world: int) -> dict[str, Any]:
    """Rules that differ by rank."""
    ranks = Ranks(SMALL, rows=2, settings="those of 2" if rank == 2 else "those of most")
    return about(ranks) | {"flags": ranks.agree(1 if rank == 0 else 2)}


def lasting(rank: int, world: int) -> dict[str, Any]:
    """The time limit of our group."""
    ranks = Ranks(SMALL, rows=2)
    assert ranks._group is not None
    limits = {backend.options._timeout.total_seconds() for backend in process_group._backends(ranks._group)}
    merged = plain(ranks.start(small(rank)).merged())
    dist.barrier()
    return {"limits": list(limits), "merged": merged}


SCENARIOS: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (
        *(exchange, handshake, fault, more_rows, many_rows, trainings, waiting, death, broken, lasting),
        settings,
    )
}


class Kept(logging.Handler):
    """The package's messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main(scenario: str, rank: int, world: int, port: int, folder: str, options: dict[str, Any]) -> None:
    """One rank, from the job's group to what it found."""
    torch.set_num_threads(1)
    os.environ["TORCH_DISTRIBUTED_DEBUG"] = options.pop("debug", "OFF")
    dist.set_debug_level_from_env()
    kept = Kept()
    logging.getLogger("rldk_tracking").addHandler(kept)
    store = dist.TCPStore("127.0.0.1", port, world, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=LIMIT)
    found = SCENARIOS[scenario](rank, world, **options)
    Path(folder, f"{rank}.json").write_text(json.dumps(found | {"messages": kept.messages}))
    if scenario != "death":
        dist.barrier()  # gloo aborts a rank whose peer goes first
        dist.destroy_process_group()
