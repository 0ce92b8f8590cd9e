"""One rank's numbers of a step as one vector: packed where the tensors lie, copied to the host once, read with numpy.

The vector's layout depends on nothing but lengths that the ranks agree on, so that a rank with an empty batch, or
without some number, sends a vector of the same length, and the vectors of all ranks form one (ranks, n) array:

    header | single numbers | columns of the rollout | columns of the update | tails | the optimizer probe's numbers

The header says how many rows and probe numbers follow and which columns are there. It and the single numbers are
written on the host, the rest is copied from the device. What a rank does not have is NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rldk_tracking.metrics.columns import Table, Tail, merge_tails, tail_length, tail_of
from rldk_tracking.metrics.statistics import Array

HEADER = 3
"""Numbers before the columns' flags: rows of the rollout, rows of the update, numbers of the probe."""


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

    @property
    def rows(self) -> tuple[int, int]:
        """Rows of the rollout and of the update."""
        return len(next(iter(self.rollout.values()), ())), len(next(iter(self.update.values()), ()))

    @property
    def tensors(self) -> list[Tensor]:
        """Of everything that is on a device."""
        tails = [values for values, _ in self.tails.values()]
        scalars = [value for value in self.scalars.values() if isinstance(value, Tensor)]
        probe = [] if self.probe is None else [self.probe]
        return [*self.rollout.values(), *self.update.values(), *tails, *scalars, *probe]


@dataclass(frozen=True)
class Vector:
    """A packed part on its way to the host.

    Attributes:
        numbers: (n + k,) float64 on the host: the vector, then k single numbers that lay on the device.
        scalars: key to number, of those that lay on the host.
        late: keys of the k others.
        copied: where the copy is under way, what tells its end.
    """

    numbers: Tensor
    scalars: Mapping[str, float]
    late: tuple[str, ...] = ()
    copied: torch.cuda.Event | None = None


@dataclass(frozen=True)
class VectorLayout:
    """Where what lies in a vector.

    Attributes:
        schema: names and their order.
        rollout_rows, update_rows: rows that there is space for.
        tail_values: values of one token quantity that there is space for.
        probe_length: numbers of the optimizer probe that there is space for.

    >>> part = Part(rollout={"length/tokens": torch.tensor([2.0, 3.0])}, scalars={"rldk/train/loss": 0.5})
    >>> layout = VectorLayout.of(part)
    >>> numbers, scalars = layout.wait(layout.pack(part))
    >>> layout.tables(numbers.numpy()[None])[0].columns["length/tokens"].tolist(), scalars
    ([2.0, 3.0], {'rldk/train/loss': 0.5})
    """

    schema: Schema
    rollout_rows: int
    update_rows: int
    tail_values: int
    probe_length: int

    @classmethod
    def of(cls, part: Part) -> VectorLayout:
        """The smallest that holds a part, for a process alone, whose single numbers need no space in a vector."""
        schema = Schema(tuple(part.rollout), tuple(part.update), tuple(part.tails), ())
        longest = max((tail_length(values.numel()) for values, _ in part.tails.values()), default=0)
        return cls(schema, *part.rows, longest, 0 if part.probe is None else len(part.probe))

    @cached_property
    def _ends(self) -> list[int]:
        """Where each of the six sections ends."""
        schema, columns = self.schema, len(self.schema.rollout) + len(self.schema.update)
        lengths = (
            HEADER + columns + len(schema.tails),
            len(schema.scalars),
            len(schema.rollout) * self.rollout_rows,
            len(schema.update) * self.update_rows,
            len(schema.tails) * (1 + self.tail_values),
            self.probe_length,
        )
        return list(itertools.accumulate(lengths))

    @property
    def size(self) -> int:
        """Length of a vector."""
        return self._ends[-1]

    # Before the exchange: constant work, whatever the number of ranks.

    @torch.no_grad()
    def pack(self, part: Part) -> Vector:
        """Begin to copy a part to the host. This waits for nothing where the tensors lie on a CUDA device."""
        device = next((t.device for t in part.tensors if t.device.type != "cpu"), torch.device("cpu"))
        dtype = torch.float32 if device.type == "mps" else torch.float64  # Apple's has no float64
        on_device = {key: v for key, v in part.scalars.items() if isinstance(v, Tensor) and v.device.type != "cpu"}
        pieces = [
            *_columns(self.schema.rollout, part.rollout, self.rollout_rows),
            *_columns(self.schema.update, part.update, self.update_rows),
            *(piece for name in self.schema.tails for piece in self._tail(part.tails.get(name))),
            *_columns(["probe"], {} if part.probe is None else {"probe": part.probe}, self.probe_length),
            *on_device.values(),
        ]
        begin = self._ends[1]
        # Page-locked where a CUDA device is to write to it beside the training.
        pinned = device.type == "cuda"
        numbers = torch.empty(self.size + len(on_device), dtype=torch.float64, pin_memory=pinned)
        copied = _to_host(_lines(pieces, device, dtype), numbers[begin:])
        numbers.numpy()[: self._ends[0]] = self._header(part)
        scalars = {key: float(value) for key, value in part.scalars.items() if key not in on_device}
        return Vector(numbers, scalars, tuple(on_device), copied)

    def wait(self, vector: Vector) -> tuple[Tensor, dict[str, float]]:
        """The finished vector (n,) and this rank's single numbers, also those that the schema has no place for."""
        if vector.copied is not None:
            vector.copied.synchronize()
        late = vector.numbers[self.size :].tolist()
        scalars = {**vector.scalars, **dict(zip(vector.late, late, strict=True))}
        self.scalars(vector.numbers.numpy()[None])[0] = [scalars.get(key, math.nan) for key in self.schema.scalars]
        return vector.numbers[: self.size], scalars

    def _header(self, part: Part) -> list[float]:
        schema, lengths = self.schema, [*part.rows, 0 if part.probe is None else len(part.probe)]
        space = (self.rollout_rows, self.update_rows, self.probe_length)
        return [
            *(float(min(pair)) for pair in zip(lengths, space, strict=True)),
            *(float(name in part.rollout) for name in schema.rollout),
            *(float(name in part.update) for name in schema.update),
            *(float(name in part.tails) for name in schema.tails),
        ]

    def _tail(self, quantity: tuple[Tensor, Tensor] | None) -> list[Tensor | int]:
        """How many values there are, and the largest of them."""
        if quantity is None:
            return [1 + self.tail_values]
        values, mask = quantity
        largest = tail_of(values, mask, self.tail_values)
        return [mask.bool().sum(), largest, self.tail_values - len(largest)]

    def tables(self, vectors: Array, names: tuple[str, ...] = ()) -> tuple[Table, Table]:
        """The tables of the rollout and of the update, with the ranks' rows one after the other: no loop over ranks.

        Args:
            vectors: (ranks, n). The tables of several ranks are copies, those of one may be views.
            names: labels that columns refer to by number.
        """
        schema, rows = self.schema, vectors[:, :2].astype(np.int64)
        is_there = iter(np.any(vectors[:, HEADER : self._ends[0]], axis=0).tolist())
        rollout = [(index, name) for index, name in enumerate(schema.rollout) if next(is_there)]
        update = [(index, name) for index, name in enumerate(schema.update) if next(is_there)]
        tails = [(index, name) for index, name in enumerate(schema.tails) if next(is_there)]
        columns = _joined(rollout, self._section(vectors, 2, len(schema.rollout)), rows[:, 0])
        merged_tails = _merged_tails(tails, self._section(vectors, 4, len(schema.tails)))
        update_columns = _joined(update, self._section(vectors, 3, len(schema.update)), rows[:, 1])
        return Table(columns, merged_tails, names), Table(update_columns)

    def scalars(self, vectors: Array) -> Array:
        """(ranks, keys) The single numbers of the schema, NaN where a rank has none."""
        return vectors[:, self._ends[0] : self._ends[1]]

    def probes(self, vectors: Array) -> list[list[float]]:
        """The probe's numbers of each rank that has them.

        Where all are the same, as those of copies of one model are, two stand for all: reading takes time for each.
        """
        lengths = vectors[:, 2].astype(np.int64)
        found = vectors[lengths > 0, self._ends[4] : self._ends[4] + lengths.max()]
        if len(found) > 2 and np.array_equal(found, np.broadcast_to(found[0], found.shape), equal_nan=True):
            found = found[:2]
        return list(found.tolist())

    def _section(self, vectors: Array, section: int, parts: int) -> Array:
        """(ranks, parts, length) A section that consists of parts of one length; a view."""
        begin, end = self._ends[section - 1], self._ends[section]
        return vectors[:, begin:end].reshape(len(vectors), parts, (end - begin) // max(parts, 1))


def _joined(present: Sequence[tuple[int, str]], columns: Array, rows: NDArray[np.int64]) -> dict[str, Array]:
    """Columns over all ranks, without the space that a rank left empty.

    Args: `present` numbers and names, `columns` (ranks, columns, space), `rows` (ranks,) how many of each rank count.
    """
    if len(rows) == 1:
        return {name: columns[0, index, : rows[0]] for index, name in present}
    # All in one piece of memory, which a process gets again at the next step without the system clearing it.
    joined = np.empty((len(present), rows.sum()))
    taken = np.flatnonzero(np.arange(columns.shape[2]) < rows[:, None])
    for line, (index, _) in zip(joined, present, strict=True):
        if (rows == rows[0]).all():
            line.reshape(len(rows), rows[0])[...] = columns[:, index, : rows[0]]
        else:
            line[...] = columns[:, index].reshape(-1)[taken]
    return {name: line for line, (_, name) in zip(joined, present, strict=True)}


def _merged_tails(present: Sequence[tuple[int, str]], tails: Array) -> dict[str, Tail]:
    """Args: `present` as for columns, `tails` (ranks, tails, 1 + values), NaN of a rank that has none."""
    counts = np.nan_to_num(tails[:, :, :1]).astype(np.int64)
    return {name: merge_tails(tails[:, index, 1:], counts[:, index, 0]) for index, name in present}


def _columns(names: Sequence[str], columns: Mapping[str, Tensor], rows: int) -> Iterator[Tensor | int]:
    """Columns one after the other, as tensors and as numbers of places that stay empty."""
    for name in names:
        column = columns.get(name)
        if column is None:
            yield rows
        else:
            yield column[:rows]
            yield rows - len(column[:rows])


def _lines(pieces: Iterable[Tensor | int], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The pieces in one dimension on one device; NaN for places that stay empty."""
    filled: list[Tensor | int] = []
    for piece in pieces:  # neighbouring gaps become one
        if isinstance(piece, int) and filled and isinstance(filled[-1], int):
            filled[-1] += piece
        else:
            filled.append(piece)
    longest = max((piece for piece in filled if isinstance(piece, int)), default=0)
    empty = torch.full((longest,), math.nan, device=device, dtype=dtype)
    return [empty[:piece] if isinstance(piece, int) else piece.to(device, dtype).reshape(-1) for piece in filled]


def _to_host(lines: list[Tensor], host: Tensor) -> torch.cuda.Event | None:
    """One copy of all; from a CUDA device without waiting, and the event tells when it is done."""
    if sum(line.numel() for line in lines) != host.numel():
        raise ValueError("A part does not fit its layout: each column must be one-dimensional.")
    if not lines:
        return None
    device = lines[0].device
    if device.type == "cpu":
        torch.cat(lines, out=host)
        return None
    if device.type != "cuda":
        host.copy_(torch.cat(lines).cpu())
        return None
    host.copy_(torch.cat(lines), non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(device))
    return copied
