from __future__ import annotations

import math

import numpy as np
import pytest

from rldk_tracking.metrics.columns import Table
from rldk_tracking.probes.row import merge_scalars, row_of, weights_spread
from rldk_tracking.ranks import Merged


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
    scalars = {"rldk/length/mean": 99.0, "rldk/train/loss": math.nan, "rldk/grad/norm": math.inf}
    row = row_of(Merged(Table(columns), Table(), scalars, []))
    assert row["rldk/length/mean"] == 3.0
    assert "rldk/train/loss" not in row
    assert "rldk/grad/norm" not in row


def test_nothing_is_no_row() -> None:
    assert row_of(Merged(Table(), Table(), {}, [])) == {}
    assert merge_scalars([]) == merge_scalars([{}, {}]) == {}


def test_the_least_the_most_and_the_sum_of_ranks() -> None:
    ranks = [
        {"rldk/length/min": 3.0, "rldk/length/max": 9.0, "own/number": 2.0},
        {"rldk/length/min": 2.0, "rldk/length/max": 7.0, "own/number": 4.0},
    ]
    assert merge_scalars(ranks) == {"rldk/length/min": 2.0, "rldk/length/max": 9.0, "own/number": 3.0}


def test_copies_of_the_weights_that_part() -> None:
    norms = [{"rldk/weight/norm": 2.0}, {"rldk/weight/norm": 1.5}, {}]
    assert weights_spread(norms) == {"rldk/system/rank_spread/weights": pytest.approx(0.25)}
    assert weights_spread([norms[0], dict(norms[0])]) == {"rldk/system/rank_spread/weights": 0.0}
    assert weights_spread(norms[:1]) == weights_spread([{"rldk/weight/norm": 0.0}] * 2) == {}
