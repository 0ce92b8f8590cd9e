"""One step's numbers over all ranks of a training: one copy to the host, one gather to rank 0, one number back.

The ranks have a process group of their own on the host's memory, so that the exchange neither waits for the device nor
mixes with the trainer's collectives. Rank 0 has the merged step; the others' work does not grow with their number.
Where not every rank of the job has the callback, the lowest that has it goes on with its own numbers alone.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/system/rank_spread/seconds | s | host | lower | max over ranks
        By how much the slowest rank holds up the fastest when sampling; what a backward pass waits is not seen.
        = max - min of the ranks' seconds in gathers
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rldk_tracking.metrics import process_group
from rldk_tracking.metrics.columns import Table
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.metrics.statistics import Array
from rldk_tracking.metrics.vector import Part, Schema, VectorLayout

__all__ = ["Merged", "Part", "Ranks", "Schema", "Transfer"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

TAIL_VALUES = 2048
"""Values a rank sends for one token quantile where there are several ranks: exact up to about 200,000 tokens a rank."""
MERGED_ROWS = 8_192
"""Completions of a step that are merged at most, so that the work of rank 0 stays bounded. A mean over so many has a
standard error of 1.1 % of their standard deviation; counts, such as rldk/nan/reward, are of those that are merged."""
SPREAD = "rldk/system/rank_spread/seconds"
"""Each rank sends how long it waited; over the ranks the number is by how much that differs."""


def rows_sent(rows: int, ranks: int) -> int:
    """How many of its completions each rank sends, the first ones.

    Where not all are sent it is a power of two, so that no group of a usual size is cut.
    """
    most = max(1, MERGED_ROWS // ranks)
    return rows if rows <= most else 2 ** (most.bit_length() - 1)


@dataclass(frozen=True)
class Merged:
    """A step over all ranks.

    Attributes:
        rollout, update: the rows of all ranks.
        scalars: key to number, merged over the ranks.
        probes: the optimizer probe's numbers, one list for each rank that has them; two where all ranks say the same.
    """

    rollout: Table
    update: Table
    scalars: dict[str, float]
    probes: list[list[float]]


class Transfer:
    """A step's numbers on their way to the host, and then to rank 0."""

    def __init__(self, merge: Callable[[], Merged | None], copied: torch.cuda.Event | None = None) -> None:
        self._merge = merge
        self._copied = copied

    @property
    def ready(self) -> bool:
        """Whether this rank's numbers are on the host: then `merged` waits for no device."""
        return self._copied is None or bool(self._copied.query())  # type: ignore[no-untyped-call]

    def merged(self) -> Merged | None:
        """The step over all ranks, on the rank that writes; None on the others. Call it once, on every rank."""
        return self._merge()


class Ranks:
    """The exchange between the ranks of one training. Every rank makes one and calls its methods in the same order.

    Args:
        schema: the fixed order of names.
        device: the training's. The exchange takes place there only if PyTorch has no gloo.
        rows: most completions that a rank delivers in a step.
        probe: length of the optimizer probe's numbers where that is known; else it is settled at the first step.
        handshake_s: how long the first rank waits here for the last.
        settings: a digest of what the user asks of the run. Where it differs, rank 0's is in force, and it says so.
        is_alone: no other rank makes one, and this one does not look for them.

    Attributes:
        rank, job_size: of this process in the job, and how many ranks the job has.
        world_size: ranks whose numbers are merged; 1 where this rank goes on alone.
        is_alone_of: ranks of the job that did not come, as those without the callback.
        writes: whether this is the rank that gets the merged steps and writes them.
        waited: seconds that this rank waited for the others in the last exchange. The last to arrive waits least.
    """

    def __init__(
        self,
        schema: Schema,
        device: torch.device | None = None,
        rows: int = 512,
        *,
        probe: int | None = None,
        handshake_s: float = 30.0,
        settings: str = "",
        is_alone: bool = False,
    ) -> None:
        self.schema = schema
        self.device = device if device is not None else torch.device("cpu")
        digest = hashlib.sha256(repr(schema).encode()).hexdigest()
        about = {"schema": digest, "rows": rows, "probe": probe, "settings": settings}
        joined = process_group.Membership() if is_alone else process_group.join(about, handshake_s)
        self._membership = joined
        self.rank, self.job_size, self.is_alone_of = joined.rank, joined.job_size, len(joined.missing)
        self.world_size = 1 if joined.group is None else joined.job_size
        self.writes, self.waited = joined.is_lowest, 0.0
        self._lengths = [(said["rows"], said["probe"]) for said in joined.said.values()]
        self._layout: VectorLayout | None = None
        self._agreed_rows = rows
        self._medium = torch.device("cpu") if dist.is_available() and dist.is_gloo_available() else self.device
        self._buffer: Tensor | None = None
        self._parts: list[Tensor] | None = None
        self._gathered_at = 0.0
        self._names: tuple[str, ...] = ()
        self._logged: set[str] = set()
        if self.rank == 0 and joined.group is not None:
            self._compare_settings(settings, joined.said)
        if joined.obstacle and (joined.is_lowest or joined.is_late):
            self._log_alone(joined.obstacle)

    def _compare_settings(self, settings: str, said: Mapping[int, Mapping[str, Any]]) -> None:
        others = sorted(rank for rank, about in said.items() if about["settings"] != settings)
        if others:
            about = "rldk: %d of %d ranks (first of them rank %d) have other rules or another on_critical than rank 0; "
            about += "those of rank 0 are in force on all ranks. Give every rank the same."
            logger.warning(about, len(others), self.job_size, others[0])

    @property
    def _group(self) -> dist.ProcessGroup | None:
        return self._membership.group

    # A step.

    def start(self, part: Part) -> Transfer:
        """Begin to copy a step's numbers to the host. Only at the first step does this wait for the other ranks."""
        self._names = part.names or self._names  # an empty batch has none, but the others' columns have
        shared = self._shared_layout(part)
        if shared is None and not self.writes:
            return Transfer(lambda: None)
        layout = VectorLayout.of(part) if shared is None else shared
        if shared is None:
            vector = layout.pack(part)
        else:  # what fails here must not leave the others waiting in the gather that follows
            vector = self._attempt(lambda: layout.pack(part)) or layout.pack(Part())
        names = self._names

        def merge() -> Merged | None:
            numbers, scalars = layout.wait(vector)
            vectors = self._gather(numbers)
            return None if vectors is None else _merged(layout, vectors, scalars, names)

        return Transfer(merge, vector.copied)

    def agree(self, flags: int) -> int:
        """Rank 0's number, on every rank. 0 where there are ranks that it does not reach: none acts without them."""
        if self._group is None:
            return flags if self.job_size == 1 else 0
        begin = time.perf_counter()
        message = torch.tensor([flags, begin - self._gathered_at], dtype=torch.float64).to(self._medium)
        if not self._exchange(lambda: dist.broadcast(message, src=0, group=self._group)):
            return 0
        flags, worked = int(message[0]), float(message[1])
        if self.rank != 0:  # which, since it gathered, did not wait but work
            self.waited += max(0.0, time.perf_counter() - begin - worked)
        return flags

    def _gather(self, numbers: Tensor) -> Array | None:
        """(ranks, n) what all have sent, on the rank that writes."""
        own = numbers.numpy()[None] if self.writes else None
        if self._group is None:
            return own
        if self.writes and self._buffer is None:
            self._buffer = torch.empty(self.world_size, len(numbers), dtype=numbers.dtype, device=self._medium)
            self._parts = list(self._buffer)
        mine = numbers.to(self._medium)
        begin = time.perf_counter()
        if not self._exchange(lambda: dist.gather(mine, self._parts, dst=0, group=self._group)):
            return own
        self._gathered_at = time.perf_counter()
        self.waited = self._gathered_at - begin
        return None if self._buffer is None else self._buffer.cpu().numpy()

    def _shared_layout(self, part: Part) -> VectorLayout | None:
        """The layout of every rank's vector; None for a rank alone. Settled at the first step."""
        if self._group is None:
            return None
        lengths = self._attempt(lambda: (max(part.rows), 0 if part.probe is None else len(part.probe))) or (0, 0)
        if self._layout is None:
            rows = max(rows for rows, _ in self._lengths)
            probes = [probe for _, probe in self._lengths if probe is not None]
            settled = torch.tensor([rows, max(probes, default=0)])
            if len(probes) < self.world_size:
                settled = torch.maximum(settled, torch.tensor(lengths)).to(self._medium)
                if not self._exchange(lambda: dist.all_reduce(settled, dist.ReduceOp.MAX, group=self._group)):
                    return None
            rows, probe = settled.tolist()
            sent = rows_sent(rows, self.world_size)
            self._agreed_rows = rows
            self._layout = VectorLayout(self.schema, sent, sent, TAIL_VALUES, probe)
        if lengths[0] > self._agreed_rows:
            self._log_once(
                f"this rank delivers {lengths[0]} completions, but the ranks agreed on {self._agreed_rows} at "
                "the first step; the rest is left out of the diagnostics."
            )
        return self._layout

    # Faults.

    def _exchange(self, collective: Callable[[], object]) -> bool:
        """Whether a collective came about. After one that failed, as where a rank died, this rank goes on alone."""
        try:
            collective()
        except (RuntimeError, ValueError) as error:
            process_group.destroy(self._group)
            self._membership = replace(self._membership, group=None)  # closed, so that no other rank waits for this one
            self.world_size = 1
            self._log_alone(f"The exchange between the ranks failed and is given up: {error}.")
            return False
        return True

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """What the work gives; None where it fails, which is logged once for each kind of exception."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for this one's vector
            self._log_once(
                f"this rank's numbers cannot be packed and are missing: {type(error).__name__}: {error}", error
            )
            return None

    def _log_once(self, message: str, error: Exception | None = None) -> None:
        kind = type(error).__name__
        if kind not in self._logged:
            self._logged.add(kind)
            logger.warning("rldk: %s", message, exc_info=error)

    def _log_alone(self, obstacle: str) -> None:
        logger.warning(
            "rldk: %s Rank %d goes on alone: %s, and no alert can stop the training or save a checkpoint.",
            obstacle,
            self.rank,
            "the diagnostics are of its own completions only" if self.writes else "it has no diagnostics",
        )


def _merged(layout: VectorLayout, vectors: Array, own: Mapping[str, float], names: tuple[str, ...]) -> Merged:
    """The step out of all ranks' vectors. Single numbers that the schema has no place for are this rank's own."""
    rollout, update = layout.tables(vectors, names)
    shared = _over_ranks(layout.schema.scalars, layout.scalars(vectors))
    return Merged(rollout, update, {**own, **shared}, layout.probes(vectors))


def _over_ranks(keys: Sequence[str], numbers: Array) -> dict[str, float]:
    """One number for each key that some rank has.

    Args:
        keys: K of them.
        numbers: (ranks, K) NaN where a rank has none.
    """
    is_known = ~np.isnan(numbers)
    merged = {}
    for index in np.flatnonzero(is_known.any(axis=0)).tolist():
        key, values = keys[index], numbers[is_known[:, index], index].tolist()
        merged[key] = max(values) - min(values) if key == SPREAD else one_of(key, values)
    return merged


def one_of(key: str, values: Sequence[float]) -> float:
    """The ranks' numbers as one, in the way that the key's row in the catalogue says; the mean for a key without."""
    known = lookup(key)
    reduce = known.reduce if known is not None else "mean"
    if reduce == "max":
        return max(values)
    if reduce == "min":
        return min(values)
    return math.fsum(values) / (len(values) if reduce == "mean" else 1)
