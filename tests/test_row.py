from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rldk_tracking.metrics.table import Table
from rldk_tracking.ranks import Merged
from rldk_tracking.row import computed, draft_of, merge_scalars, row_of


def test_ranks_are_merged_as_the_catalogue_says() -> None:
    ranks = [
        {"rldk/resources/host_rss_gib": 1.0, "rldk/throughput/tokens_per_second": 100.0, "rldk/train/loss": 0.25},
        {"rldk/resources/host_rss_gib": 3.0, "rldk/throughput/tokens_per_second": 50.0, "rldk/train/loss": 0.75},
    ]
    merged = merge_scalars(ranks)
    assert merged["rldk/resources/host_rss_gib"] == 3.0
    assert merged["rldk/throughput/tokens_per_second"] == 150.0
    assert merged["rldk/train/loss"] == 0.5


def test_a_number_that_one_rank_has_stands() -> None:
    assert merge_scalars([{}, {"rldk/train/loss": 2.0}]) == {"rldk/train/loss": 2.0}


def test_the_rollout_wins_over_the_logs_and_nothing_unfinite_remains() -> None:
    columns = {"length/tokens": np.array([2.0, 4.0])}
    scalars = [{"rldk/length/mean": 99.0, "rldk/train/loss": math.nan, "rldk/grad/norm": math.inf}]
    row = row_of(Merged(Table(columns), Table(), scalars, []))
    assert row["rldk/length/mean"] == 3.0
    assert "rldk/train/loss" not in row
    assert "rldk/grad/norm" not in row


def test_the_probe_is_read_for_every_rank() -> None:
    merged = Merged(Table(), Table(), [{}], [[1.0], [3.0]])
    row = row_of(merged, lambda values: {"rldk/grad/norm": values[0]})
    assert row == {"rldk/grad/norm": pytest.approx(2.0)}


def test_a_draft_has_what_lies_on_the_host() -> None:
    key = "rldk/system/rank_spread/seconds"
    elsewhere, here = torch.empty((), device="meta"), torch.tensor(0.5)
    one = {"rldk/train/loss": 1.0, "rldk/grad/norm": elsewhere, "rldk/kl/ref_k1": math.nan, key: here}
    assert draft_of([one], {}) == {"rldk/train/loss": 1.0, key: 0.5}
    assert draft_of([one, {"rldk/train/loss": 3.0, key: 0.25}], {}) == {"rldk/train/loss": 2.0, key: 0.25}
    assert draft_of([], {}) == {}


def test_in_a_draft_too_the_rollout_wins_over_the_logs() -> None:
    logged = {"rldk/train/loss": 1.0, "rldk/length/mean": 99.0, "rldk/reward/mean": 2.0}
    known = {"rldk/length/mean": 3.0, "rldk/reward/mean": math.nan}
    assert draft_of([logged], known) == {"rldk/train/loss": 1.0, "rldk/length/mean": 3.0}


def test_what_was_computed_already_is_not_computed_again() -> None:
    merged = Merged(Table({"length/tokens": np.array([2.0, 4.0])}), Table(), [{"rldk/train/loss": 1.0}], [])
    assert row_of(merged)["rldk/length/mean"] == computed(merged)["rldk/length/mean"] == 3.0
    assert row_of(merged, None, {"rldk/length/mean": 5.0}) == {"rldk/train/loss": 1.0, "rldk/length/mean": 5.0}
    assert row_of(merged, None, {"rldk/length/mean": math.nan}) == {"rldk/train/loss": 1.0}
