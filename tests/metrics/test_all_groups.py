from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rldk_tracking import metrics
from rldk_tracking.metrics import reward
from rldk_tracking.metrics.columns import Table
from rldk_tracking.probes import steps as module
from rldk_tracking.rollout import PolicyUpdate, Rollout


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_split_over_ranks_gives_the_same_numbers(
    data: st.DataObject, a_rollout: Any, take_rows: Any, tabulate: Any, computed: Any, same: Any
) -> None:
    rollout = data.draw(a_rollout(max_rows=9))
    rows = len(rollout.mask)
    ranks = data.draw(st.integers(2, 3))
    owners = data.draw(st.lists(st.integers(0, ranks - 1), min_size=rows, max_size=rows))
    parts = [take_rows(rollout, [row for row in range(rows) if owners[row] == rank]) for rank in range(ranks)]
    same(computed(tabulate(*parts)), computed(tabulate(rollout)), 1e-9)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_split_of_an_update_gives_the_same_numbers(
    data: st.DataObject, an_update: Any, tabulate_updates: Any, computed: Any, same: Any
) -> None:
    update = data.draw(an_update(max_rows=9))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(update.mask)), min_size=2, max_size=2)))
    parts = [slice_of(update, start, stop) for start, stop in zip([0, *cuts], [*cuts, None], strict=True)]
    same(computed(update=tabulate_updates(*parts)), computed(update=tabulate_updates(update)), 1e-9)


def slice_of(update: PolicyUpdate, start: int, stop: int | None) -> PolicyUpdate:
    tensors = {f.name: getattr(update, f.name) for f in fields(update) if isinstance(getattr(update, f.name), Tensor)}
    return replace(update, **{name: values[start:stop] for name, values in tensors.items()})


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_columns_are_among_those_announced_one_number_a_row(
    data: st.DataObject, a_rollout: Any, an_update: Any, columns: Any
) -> None:
    rollout, update = data.draw(a_rollout()), data.draw(an_update())
    for group in module.ROLLOUT_GROUPS:
        assert set(group.columns(rollout)) <= set(group.COLUMNS)
    assert set(module.rollout_tails(rollout)) <= set(module.TAILS)
    assert set(module.update_columns(update)) <= set(module.UPDATE_COLUMNS)
    for column in columns(rollout).values():
        assert column.shape == (len(rollout.mask),)
        assert column.dtype == torch.float64
    for column in module.update_columns(update).values():
        assert column.shape == (len(update.mask),)


class Read(dict[str, Any]):
    """Columns that keep which of them were asked for."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        super().__init__({name: column.double().numpy() for name, column in columns.items()})
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("is_trained", [False, True])
def test_every_column_is_read_by_some_key(is_trained: bool, columns: Any, computed: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rollout = replace(full_rollout(lambda *shape: torch.rand(*shape, generator=generator)), max_score=1.0)
    update = full_update(lambda *shape: torch.rand(*shape, generator=generator), sequence_level=False)
    rollout = replace(rollout, mask=torch.ones(4, 6), group_ids=torch.tensor([0, 0, 1, 1]))
    found = Read(columns(rollout)), Read(module.update_columns(replace(update, mask=torch.ones(4, 6))))
    computed(Table(found[0], names=("a", "b")), Table(found[1]) if is_trained else None)
    # The entropy of the rollout stands in for the loss's.
    assert set(found[0]) - found[0].asked == ({"policy/entropy"} if is_trained else set())
    assert set(found[1]) - found[1].asked == (set() if is_trained else set(found[1]))


def test_no_column_is_announced_twice() -> None:
    for names in (module.ROLLOUT_COLUMNS, module.UPDATE_COLUMNS, module.TAILS):
        assert len(set(names)) == len(names)


def full_rollout(make: Callable[..., Tensor]) -> Rollout:
    per_token = ("token_ids", "logprobs", "ref_logprobs", "sampler_logprobs", "entropy", "values", "returns")
    tokens = {name: make(4, 6) for name in (*per_token, "advantages", "raw_advantages")}
    rows = {name: make(4) for name in ("scores", "non_score_rewards", "group_ids", "truncated")}
    return Rollout(make(4, 6), rewards={"a": make(4), "b": make(4)}, reward_weights={"a": 1.0}, **tokens, **rows)


def full_update(make: Callable[..., Tensor], sequence_level: bool) -> PolicyUpdate:
    tensors = [make(4, 6) for _ in range(5)]
    return PolicyUpdate(*tensors, make(4), clip_low=0.2, clip_high=0.2, sequence_level=sequence_level, first_epoch=True)


def test_columns_never_wait_for_the_device(columns: Any) -> None:
    """Tensors without data raise as soon as anything asks for a value or for a shape that depends on values."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta")

    found = columns(replace(full_rollout(empty), max_score=1.0))
    assert set(module.rollout_tails(full_rollout(empty))) == set(module.TAILS)
    unused = {name for name in module.ROLLOUT_COLUMNS if name not in found}
    assert all(name.startswith(("reward/function/", "reward/weight/")) for name in unused)
    for sequence_level in (False, True):
        assert set(module.update_columns(full_update(empty, sequence_level))) == set(module.UPDATE_COLUMNS)


@pytest.mark.parametrize("rows", [0, 3])
def test_a_mask_alone_has_lengths_and_nothing_else(rows: int, tabulate: Any, computed: Any) -> None:
    found = computed(tabulate(Rollout(torch.ones(rows, 2))))
    assert all(key.startswith("rldk/length/") for key in found)
    assert bool(found) == bool(rows)
    assert reward.names(Rollout(torch.ones(rows, 2))) == ()


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(metrics.__path__)))
def test_the_examples_of_a_module_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"{metrics.__name__}.{name}"))
    assert result.attempted > 0 and result.failed == 0
