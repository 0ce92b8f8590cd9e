"""Vectors of many ranks, packed one by one in one process, against lists that plain Python puts together."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import vector as module
from rldk_tracking.metrics.statistics import Array
from rldk_tracking.metrics.vector import Part, Schema, VectorLayout

SCHEMA = Schema(("a", "b", "never"), ("u", "v"), ("t", "s"), ("x", "y"))
LAYOUT = VectorLayout(SCHEMA, rollout_rows=5, update_rows=7, tail_values=6, probe_length=3)
NAN = math.nan


def packed(layout: VectorLayout, parts: Sequence[Part]) -> Array:
    return np.stack([layout.wait(layout.pack(part))[0].numpy() for part in parts])


def a_part(seed: int, rows: int, update_rows: int) -> Part:
    """Some columns, some numbers, some tokens."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def column(length: int) -> torch.Tensor:
        values = torch.randn(length, generator=generator, dtype=torch.float64)
        return torch.where(torch.rand(length, generator=generator) < 0.2, NAN, values)

    part = Part({name: column(rows) for name in ("a", "b") if draw.random() < 0.8})
    part.update = {name: column(update_rows) for name in ("u", "v") if draw.random() < 0.8}
    for name in ("t", "s"):
        if draw.random() < 0.8:
            part.tails[name] = torch.randn(rows, 2, generator=generator), torch.rand(rows, 2, generator=generator) < 0.6
    part.scalars = {key: draw.random() for key in ("x", "y", "z") if draw.random() < 0.7}
    if draw.random() < 0.8:
        part.probe = torch.arange(3.0) + draw.random()
    return part


def joined(parts: Sequence[Part], table: str, name: str) -> list[float]:
    found: list[float] = []
    for part in parts:
        columns: dict[str, torch.Tensor] = getattr(part, table)
        rows = len(next(iter(columns.values()), []))
        found += columns[name].tolist() if name in columns else [NAN] * rows
    return found


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=6))
def test_tables_are_the_ranks_rows_one_after_the_other(seed: int, rows: list[tuple[int, int]]) -> None:
    parts = [a_part(seed + rank, *lengths) for rank, lengths in enumerate(rows)]
    vectors = packed(LAYOUT, parts)
    rollout, update = LAYOUT.tables(vectors, ("one",))
    assert rollout.names == ("one",)
    for table, columns in (("rollout", rollout.columns), ("update", update.columns)):
        assert set(columns) == {name for part in parts for name in getattr(part, table)}
        for name, column in columns.items():
            assert column.tolist() == pytest.approx(joined(parts, table, name), nan_ok=True, abs=0)
    assert set(rollout.tails) == {name for part in parts for name in part.tails}
    for name, tail in rollout.tails.items():
        kept = [pair[0][pair[1]].double().tolist() for part in parts if (pair := part.tails.get(name))]
        assert tail.count == sum(map(len, kept))
        assert sorted(tail.values.tolist()) == sorted(v for values in kept for v in sorted(values)[-6:])
        assert tail.floor == max((sorted(values)[-6] for values in kept if len(values) > 6), default=-math.inf)
    scalars = [[part.scalars.get(key, NAN) for key in ("x", "y")] for part in parts]
    assert LAYOUT.scalars(vectors) == pytest.approx(np.array(scalars), nan_ok=True)
    assert LAYOUT.probes(vectors) == [part.probe.tolist() for part in parts if part.probe is not None]


def test_every_vector_has_the_same_length() -> None:
    sizes = {
        LAYOUT.pack(part).numbers.numel() for part in (Part(), a_part(1, 5, 7), a_part(2, 0, 1), a_part(3, 40, 40))
    }
    assert sizes == {LAYOUT.size}


def test_rows_and_numbers_beyond_the_space_are_left_out() -> None:
    part = Part({"a": torch.arange(9.0)}, {"u": torch.arange(9.0)}, probe=torch.arange(9.0))
    vectors = packed(LAYOUT, [part, part])
    rollout, update = LAYOUT.tables(vectors)
    assert rollout.columns["a"].tolist() == [*range(5)] * 2
    assert update.columns["u"].tolist() == [*range(7)] * 2
    assert LAYOUT.probes(vectors) == [[0.0, 1.0, 2.0]] * 2


@pytest.mark.parametrize(("different", "kept"), [(None, 2), (0, 4), (3, 4)])
def test_probes_that_are_all_the_same_are_read_twice_and_not_for_every_rank(different: int | None, kept: int) -> None:
    parts = [Part(probe=torch.tensor([1.0, NAN, 9.0 if rank == different else 2.0])) for rank in range(4)]
    parts.insert(2, Part())
    probes = LAYOUT.probes(packed(LAYOUT, parts))
    assert len(probes) == kept
    assert sum(probe[2] == 9.0 for probe in probes) == (different is not None)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 9), st.integers(0, 9))
def test_the_smallest_layout_holds_all_of_one_part(seed: int, rows: int, update_rows: int) -> None:
    part = a_part(seed, rows, update_rows)
    layout = VectorLayout.of(part)
    vectors = packed(layout, [part])
    rollout, update = layout.tables(vectors)
    assert {name: column.tolist() for name, column in rollout.columns.items()} == pytest.approx(
        {name: pytest.approx(column.tolist(), nan_ok=True) for name, column in part.rollout.items()}
    )
    assert set(update.columns) == set(part.update)
    values = sum(column.numel() for column in [*part.rollout.values(), *part.update.values()])
    assert layout.size <= 3 + 6 + values + 2 * (1 + 2 * rows) + 3
    assert layout.scalars(vectors).shape == (1, 0)


def test_tables_of_several_ranks_are_copies() -> None:
    """The next step is gathered into the same place."""
    vectors = packed(LAYOUT, [a_part(seed, 5, 7) for seed in (1, 2, 3)])
    rollout, update = LAYOUT.tables(vectors)
    for array in [
        *rollout.columns.values(),
        *update.columns.values(),
        *(tail.values for tail in rollout.tails.values()),
    ]:
        assert not np.shares_memory(array, vectors)
    columns = LAYOUT.tables(vectors[:1])[0].columns.values()
    assert columns
    assert all(np.shares_memory(column, vectors) for column in columns), "one rank's vector is its own"


def test_any_dtype_and_shape_of_one_element_is_a_number() -> None:
    part = Part(
        {"a": torch.tensor([True, False]), "b": torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True)},
        scalars={"x": torch.tensor([[3]]), "y": 2},
    )
    numbers, scalars = LAYOUT.wait(LAYOUT.pack(part))
    assert scalars == {"x": 3.0, "y": 2.0}
    assert not numbers.requires_grad
    rollout, _ = LAYOUT.tables(numbers.numpy()[None])
    assert rollout.columns["a"].tolist() == [1.0, 0.0]
    assert rollout.columns["b"].tolist() == [1.5, 2.5]


def test_a_column_of_two_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="one-dimensional"):
        LAYOUT.pack(Part({"a": torch.zeros(5, 2)}))


class FakeEvent:
    """As CUDA's, and the copy that it stands for arrives when it is waited for."""

    def __init__(self) -> None:
        self.recorded = self.waited = 0

    def record(self, stream: Any) -> None:
        assert stream == "the device's stream"
        self.recorded += 1

    def query(self) -> bool:
        return self.waited > 0

    def synchronize(self) -> None:
        self.waited += 1
        ACTION.pop()()


ACTION: list[Any] = []


class OnDevice(torch.Tensor):
    """A tensor that claims to lie on a CUDA device."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return torch.device("cuda", 0)


def test_from_a_cuda_device_there_is_one_copy_that_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device stands in whose copy takes place late: when its event is waited for, not before."""
    copies: list[int] = []
    pinned: list[bool] = []

    def empty(length: int, *, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        pinned.append(pin_memory)
        return torch.full((length,), 77.0, dtype=dtype)

    def lines(pieces: Any, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        assert (device.type, dtype) == ("cuda", torch.float64)
        plain = [piece if isinstance(piece, int) else piece.as_subclass(torch.Tensor) for piece in pieces]
        return [line.as_subclass(OnDevice) for line in original(plain, torch.device("cpu"), dtype)]

    def copy(host: torch.Tensor, numbers: torch.Tensor, non_blocking: bool = False) -> None:
        assert non_blocking
        copies.append(numbers.numel())
        ACTION.append(lambda: host.numpy().__setitem__(slice(None), numbers.as_subclass(torch.Tensor).numpy()))

    original = module._lines
    monkeypatch.setattr(module, "_lines", lines)
    monkeypatch.setattr(module.torch, "empty", empty)
    monkeypatch.setattr(torch.Tensor, "copy_", copy)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the device's stream")
    part = Part(
        {"a": torch.tensor([1.0, 2.0]).as_subclass(OnDevice)},
        scalars={"x": torch.tensor(5.0).as_subclass(OnDevice), "y": 6.0, "z": torch.tensor(7.0).as_subclass(OnDevice)},
    )
    vector = LAYOUT.pack(part)
    assert pinned == [True]
    assert len(copies) == 1
    assert vector.late == ("x", "z")
    assert vector.copied is not None
    assert vector.copied.recorded == 1
    assert not vector.copied.query()
    numbers, scalars = LAYOUT.wait(vector)
    assert vector.copied.waited == 1
    assert scalars == {"x": 5.0, "y": 6.0, "z": 7.0}
    assert LAYOUT.scalars(numbers.numpy()[None]).tolist() == [[5.0, 6.0]]
    assert LAYOUT.tables(numbers.numpy()[None])[0].columns["a"].tolist() == [1.0, 2.0]


def test_on_the_host_there_is_no_copy_beside_the_packing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "copy_", None)
    vector = LAYOUT.pack(a_part(1, 5, 7))
    assert vector.copied is None
    assert not vector.numbers.is_pinned()
