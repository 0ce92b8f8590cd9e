"""What `tests/benchmarks/columns.py` measures, held to bounds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.benchmarks import columns


@pytest.mark.parametrize(("rows", "tokens"), [(256, 1024), (32, 512), (64, 512)])
def test_a_step_takes_at_most_200_operations(rows: int, tokens: int) -> None:
    """On the host and on a device, where each is a kernel; the count does not depend on what else runs."""
    cost = columns.measure(rows, tokens, repeats=1, names=("all",))["all"]
    assert 100 < cost.operations <= 200
    assert 100 < cost.on_device <= 200


def test_columns_cost_a_few_plain_sums() -> None:
    """20 on a machine that does nothing else."""
    assert 1 < columns.measure(256, 1024, repeats=20, names=("all",))["all"].sums < 60


@pytest.mark.slow
def test_the_benchmark_prints_a_line_for_each_group() -> None:
    command = [sys.executable, columns.__file__, "--rows", "4", "--tokens", "16", "--repeats", "2"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()
    names = [line.split()[0] for line in lines[2:]]
    assert names == list(columns.pieces())
    assert {"kl", "length", "diversity", "update", "all", "tails"} <= set(names)
