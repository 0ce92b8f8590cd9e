"""Rows are found again after a shuffle, or said to be missing."""

from __future__ import annotations

import pytest
import torch

from rldk_tracking.sources.rows import align, row_keys, stack_rows


def test_rows_are_found_in_another_order() -> None:
    ids = torch.randint(0, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    values = torch.randn(64, 5)
    shuffle = torch.randperm(64)
    found = align(row_keys(ids[shuffle]), values[shuffle], row_keys(ids))
    assert torch.equal(found, values)


def test_a_row_that_is_not_there_is_nan_and_others_are_not_disturbed() -> None:
    ids = torch.arange(20).reshape(5, 4)
    values = torch.randn(5, 3)
    found = align(row_keys(ids[[4, 0, 2]]), values[[4, 0, 2]], row_keys(ids))
    assert torch.equal(found.isnan().all(dim=1), torch.tensor([False, True, False, True, False]))
    assert torch.equal(found[[0, 2, 4]], values[[0, 2, 4]])


def test_nothing_to_find_in_is_all_nan() -> None:
    assert align(torch.empty(0, dtype=torch.long), torch.empty(0, 3), torch.tensor([7])).isnan().all()


def test_equal_rows_share_a_key_and_others_do_not() -> None:
    ids = torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 3], [1, 2, 4], [0, 0, 0], [0, 0, 1]])
    keys = row_keys(ids).tolist()
    assert keys[0] == keys[2]
    assert len(set(keys)) == 5


def test_keys_of_many_similar_rows_do_not_collide() -> None:
    digits = torch.cartesian_prod(*[torch.arange(10)] * 5)
    assert len(row_keys(digits).unique()) == 100_000


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_keys_do_not_depend_on_the_integer_type(dtype: torch.dtype) -> None:
    ids = torch.randint(0, 30_000, (8, 40))
    assert torch.equal(row_keys(ids.to(dtype)), row_keys(ids))


def test_batches_of_different_length_are_stacked() -> None:
    stacked = stack_rows([torch.ones(2, 3), torch.ones(1, 5)])
    assert stacked is not None and stacked.shape == (3, 5) and stacked.sum() == 11
    flat = stack_rows([torch.ones(2), torch.zeros(3)])
    assert flat is not None and flat.shape == (5,)


def test_what_one_batch_lacks_is_lacking() -> None:
    assert stack_rows([torch.ones(2, 3), None]) is None
    assert stack_rows([]) is None
