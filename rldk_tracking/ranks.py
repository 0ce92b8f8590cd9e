"""One step's numbers from the device to the host, over all ranks: one vector, one collective, one copy.

A process alone makes two copies where it reads the rollout ahead: one of the rollout's numbers beside the training,
while the gradients are computed, and one of what is known when the step is over.

A rank's `Part` is packed into one float64 vector. Its layout is agreed on once, at the first step, so that a rank
with an empty batch, or without some number, still sends a vector of the same length and takes part in the same
collective. Every rank receives all parts and so comes to the same row, the same alerts and the same decision.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rldk_tracking.metrics.table import Array, Table, merge_tails, tail_of

logger = logging.getLogger(__name__)

TAIL_CAPACITY = 2048
"""Values a rank sends for one token quantile where there are several ranks: exact up to about 200,000 tokens a rank."""


@dataclass(frozen=True)
class Schema:
    """What a vector may hold, in a fixed order known to every rank.

    Attributes:
        rollout, update: column names of the two tables.
        tails: names of the rollout's token quantities.
        scalars: keys of single numbers.
    """

    rollout: tuple[str, ...]
    update: tuple[str, ...]
    tails: tuple[str, ...]
    scalars: tuple[str, ...]


@dataclass
class Part:
    """What one rank knows of a step. Tensors live on the training device and are not waited for.

    Attributes:
        rollout, update: column name to (rows,).
        tails: name to (values, mask), both (B, T).
        scalars: key to number.
        probe: (n,) numbers that only their reader understands (gradient and weight norms).
        names: labels that columns refer to by number.
    """

    rollout: dict[str, Tensor] = field(default_factory=dict)
    update: dict[str, Tensor] = field(default_factory=dict)
    tails: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scalars: dict[str, float | Tensor] = field(default_factory=dict)
    probe: Tensor | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Merged:
    """A step over all ranks. `scalars` and `probes` hold one entry for each rank."""

    rollout: Table
    update: Table
    scalars: list[dict[str, float]]
    probes: list[list[float]]


class Ranks:
    """The exchange between the ranks of one training run.

    Args:
        schema: the fixed order of names.
        device: where the collective takes place; None for the host (gloo) or a single process.
        rows: most completions a rank delivers in a step; the same on all ranks.
    """

    def __init__(self, schema: Schema, device: torch.device | None = None, rows: int = 512) -> None:
        self.schema = schema
        self.device = device if device is not None else torch.device("cpu")
        self.world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.rank = dist.get_rank() if self.world_size > 1 else 0
        self._rows = rows
        self._capacity: tuple[int, int] | None = None
        self._warned = False
        self._names: tuple[str, ...] = ()
        self.waited = 0.0
        """Seconds that this rank waited for the others in the last exchange: the last to arrive waits least."""

    def start(self, part: Part) -> Transfer:
        return Transfer(self.merge(part) )

    def agree(self, flags: int) -> int:
        return flags

    def merge(self, part: Part) -> Merged:
        """This step over all ranks. A collective where there are several: every rank must call it once a step."""
        if self.world_size == 1:
            return self._alone(part)
        return self._together(part)

    def _alone(self, part: Part) -> Merged:
        tails = {name: tail_of(values, mask) for name, (values, mask) in part.tails.items()}
        counts = {name: mask.sum() for name, (_, mask) in part.tails.items()}
        on_device = {key: value for key, value in part.scalars.items() if isinstance(value, Tensor)}
        pieces = [
            *part.rollout.values(),
            *part.update.values(),
            *tails.values(),
            *counts.values(),
            *on_device.values(),
            *([part.probe] if part.probe is not None else []),
        ]
        host = iter(_to_host(pieces))
        rollout = Table(
            {name: next(host) for name in part.rollout},
            names=part.names,
        )
        update = Table({name: next(host) for name in part.update})
        tail_values = {name: next(host) for name in tails}
        tail_counts = {name: int(next(host)[0]) for name in counts}
        merged_tails = {name: merge_tails([(tail_values[name], tail_counts[name], False)]) for name in tails}
        scalars = {key: float(value) for key, value in part.scalars.items() if not isinstance(value, Tensor)}
        scalars |= {key: float(next(host)[0]) for key in on_device}
        probes = [next(host).tolist()] if part.probe is not None else []
        return Merged(Table(rollout.columns, merged_tails, part.names), update, [scalars], probes)

    def _together(self, part: Part) -> Merged:
        vector = self._pack(part)
        gathered = torch.empty(self.world_size * len(vector), dtype=vector.dtype, device=vector.device)
        begin = time.perf_counter()
        dist.all_gather_into_tensor(gathered, vector)
        host = gathered.reshape(self.world_size, -1).cpu().numpy().astype(np.float64)
        self.waited = time.perf_counter() - begin
        # A rank with an empty batch has no labels of its own, but reads the others' columns all the same.
        self._names = part.names or self._names
        return self._unpack(host, *self._agree(part), self._names)

    def _agree(self, part: Part) -> tuple[int, int]:
        """Rows of the tables and length of the probe that every rank makes room for; settled at the first step."""
        if self._capacity is not None:
            return self._capacity
        rows = max(self._rows, *(len(next(iter(t.values()), ())) for t in (part.rollout, part.update)))
        wanted = torch.tensor([rows, 0 if part.probe is None else len(part.probe)], device=self.device)
        dist.all_reduce(wanted, op=dist.ReduceOp.MAX)
        self._capacity = int(wanted[0]), int(wanted[1])
        return self._capacity

    def _pack(self, part: Part) -> Tensor:
        rows, probe_length = self._agree(part)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        host = [part.scalars.get(key, math.nan) for key in self.schema.scalars]
        scalars = torch.tensor([math.nan if isinstance(v, Tensor) else v for v in host], dtype=dtype).to(self.device)
        for index, value in enumerate(host):
            if isinstance(value, Tensor):
                scalars[index] = value.to(self.device, dtype)
        header = torch.tensor(
            [_rows(part.rollout), _rows(part.update), 0 if part.probe is None else len(part.probe)], dtype=dtype
        ).to(self.device)
        pieces = [header, scalars]
        for names, columns in ((self.schema.rollout, part.rollout), (self.schema.update, part.update)):
            pieces.append(self._matrix(names, columns, rows, dtype).flatten())
        for name in self.schema.tails:
            pieces.append(self._tail(part.tails.get(name), dtype))
        probe = torch.full((probe_length,), math.nan, dtype=dtype, device=self.device)
        if part.probe is not None:
            probe[: len(part.probe)] = part.probe[:probe_length].to(self.device, dtype)
        return torch.cat([*pieces, probe])

    def _matrix(self, names: Sequence[str], columns: Mapping[str, Tensor], rows: int, dtype: torch.dtype) -> Tensor:
        matrix = torch.full((len(names), rows), math.nan, dtype=dtype, device=self.device)
        for index, name in enumerate(names):
            column = columns.get(name)
            if column is None:
                continue
            if len(column) > rows and not self._warned:
                self._warned = True
                logger.warning(
                    "rldk: this rank delivers %d completions, but the ranks agreed on %d at the first step; "
                    "the rest is left out of the diagnostics.",
                    len(column),
                    rows,
                )
            matrix[index, : min(len(column), rows)] = column[:rows].to(self.device, dtype)
        return matrix

    def _tail(self, quantity: tuple[Tensor, Tensor] | None, dtype: torch.dtype) -> Tensor:
        """[count, values...] of one token quantity, of fixed length."""
        room = torch.full((TAIL_CAPACITY + 1,), -math.inf, dtype=dtype, device=self.device)
        room[0] = 0
        if quantity is not None and quantity[0].numel() > 0:
            values = tail_of(*quantity, capacity=TAIL_CAPACITY).to(self.device, dtype)
            room[0] = quantity[1].sum()
            room[1 : 1 + len(values)] = values
        return room

    def _unpack(self, host: Array, rows: int, probe_length: int, names: tuple[str, ...]) -> Merged:
        schema = self.schema
        scalars, probes = [], []
        tables: list[list[Array]] = [[], []]
        tails: dict[str, list[tuple[Array, int, bool]]] = {name: [] for name in schema.tails}
        for line in host:
            counts, line = line[:3].astype(int), line[3:]
            numbers, line = line[: len(schema.scalars)], line[len(schema.scalars) :]
            scalars.append({key: float(v) for key, v in zip(schema.scalars, numbers, strict=True) if not np.isnan(v)})
            for index, columns in enumerate((schema.rollout, schema.update)):
                size = len(columns) * rows
                matrix, line = line[:size].reshape(len(columns), rows), line[size:]
                tables[index].append(matrix[:, : min(counts[index], rows)])
            for name in schema.tails:
                room, line = line[: TAIL_CAPACITY + 1], line[TAIL_CAPACITY + 1 :]
                tails[name].append((room[1:], int(room[0]), False))
            if counts[2]:
                probes.append(line[: min(counts[2], probe_length)].tolist())
        rollout, update = (np.concatenate(parts, axis=1) for parts in tables)
        return Merged(
            Table(_columns(schema.rollout, rollout), {n: merge_tails(p) for n, p in tails.items()}, names),
            Table(_columns(schema.update, update)),
            scalars,
            probes,
        )


def _columns(names: Sequence[str], matrix: Array) -> dict[str, Array]:
    return {name: row for name, row in zip(names, matrix, strict=True) if np.isfinite(row).any()}


def _rows(columns: Mapping[str, Tensor]) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def _to_host(pieces: Sequence[Tensor]) -> list[Array]:
    """The pieces as float64 arrays, with one copy for each device that they lie on (one, as a rule)."""
    by_device: dict[torch.device, list[int]] = {}
    for index, piece in enumerate(pieces):
        by_device.setdefault(piece.device, []).append(index)
    host: list[Array] = [np.empty(0)] * len(pieces)
    for device, indices in by_device.items():
        dtype = torch.float32 if device.type == "mps" else torch.float64
        together = torch.cat([_line(pieces[i], dtype) for i in indices]).detach()
        flat = together.cpu().numpy().astype(np.float64, copy=False)
        start = 0
        for index in indices:
            stop = start + pieces[index].numel()
            host[index] = flat[start:stop]
            start = stop
    return host


def _line(piece: Tensor, dtype: torch.dtype) -> Tensor:
    """The piece in one dimension; most of them are so already."""
    return piece if piece.ndim == 1 and piece.dtype == dtype else piece.to(dtype).flatten()


class Transfer:
    def __init__(self, m: Merged) -> None:
        self.m = m

    def merged(self) -> Merged | None:
        return self.m
