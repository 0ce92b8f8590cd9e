"""Trainers on one, two and three gloo ranks: the row is what a gather of the trainers' own tensors says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.test_configurations import ESTIMATED, computed

pytestmark = pytest.mark.ranks

SCRIPT, ROOT = Path(__file__).with_name("ranks_script.py"), Path(__file__).parents[2]
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Results]:
    """`on_ranks("grpo", 2)`: what each rank wrote, rank 0 first."""
    finished: dict[tuple[str, int], Results] = {}

    def run(kind: str, ranks: int) -> Results:
        if (kind, ranks) not in finished:
            folder = tmp_path_factory.mktemp(f"{kind}-{ranks}")
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            command = [*launch, str(SCRIPT), str(folder), kind]
            done = subprocess.run(command, env=environment, timeout=240, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-4000:]
            texts = [(folder / f"{kind}-{rank}.json").read_text() for rank in range(ranks)]
            finished[kind, ranks] = [json.loads(text) for text in texts]
        return finished[kind, ranks]

    return run


GRPO = [("grpo", 1), ("grpo", 2), ("grpo", 3)]
PPO = [("ppo", 2)]
CUSTOM = [("custom", 3)]


@pytest.fixture
def results(request: pytest.FixtureRequest, on_ranks: Callable[[str, int], Results]) -> Results:
    kind, ranks = request.param
    if kind == "ppo":
        pytest.importorskip("trl.experimental.ppo", reason="PPOTrainer was removed from TRL in 1.13")
    return on_ranks(kind, ranks)


def identify(case: object) -> str:
    return "-".join(map(str, case)) if isinstance(case, tuple) else str(case)


@pytest.mark.parametrize("results", [*GRPO, *PPO], indirect=True, ids=identify)
def test_every_number_is_that_of_all_ranks_together(results: Results) -> None:
    rows, expected = results[0]["rows"], results[0]["expected"]
    assert rows.keys() == expected.keys()
    for step, row in rows.items():
        row.pop(ESTIMATED, None)
        assert set(computed(row)) == set(computed(expected[step])), step
        for key, value in expected[step].items():
            assert row[key] == pytest.approx(value, rel=1e-5, abs=2e-6), (key, step)


@pytest.mark.parametrize("results", CUSTOM, indirect=True, ids=identify)
def test_a_rank_with_an_empty_batch_takes_part(results: Results) -> None:
    rows, expected = results[0]["rows"], results[0]["expected"]
    assert rows.keys() == expected.keys()
    for step, row in rows.items():
        for key, value in expected[step].items():
            assert row[key] == pytest.approx(value, rel=1e-5, abs=1e-7), (key, step)


@pytest.mark.parametrize("results", [*GRPO[1:], *PPO, *CUSTOM], indirect=True, ids=identify)
def test_a_step_is_one_gather_and_one_broadcast_of_ours(results: Results) -> None:
    steps = len(results[0]["rows"])
    for rank in results:
        calls = {name: count for name, count in rank["calls"].items() if count}
        # The one reduction is the agreement on the size of the exchange, before the first; where there is a folder, one
        # broadcast says which journal in it is rank 0's.
        assert calls in [{"gather": steps, "broadcast": steps + more, "all_reduce": 1} for more in (0, 1)]


@pytest.mark.parametrize("results", [*GRPO[1:], *PPO, *CUSTOM], indirect=True, ids=identify)
def test_rank_0_alone_judges_and_writes(results: Results) -> None:
    assert results[0]["rows"] and results[0]["latest"]
    for other in results[1:]:
        assert other["rows"] == other["latest"] == {}


def test_alone_there_is_no_collective(on_ranks: Callable[[str, int], Results]) -> None:
    assert not any(on_ranks("grpo", 1)[0]["calls"].values())
