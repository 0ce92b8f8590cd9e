from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("exchange_script.py")


def exchange(world_size: int, folder: Path) -> dict[str, Any]:
    output = folder / f"{world_size}.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world_size}"]
    subprocess.run([*launch, str(SCRIPT), str(output)], check=True, timeout=120, capture_output=True)
    return dict(json.loads(output.read_text()))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return {world_size: exchange(world_size, folder) for world_size in (1, 2, 3)}


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_same_batch_gives_the_same_numbers_on_any_number_of_ranks(
    results: dict[int, dict[str, Any]], world_size: int
) -> None:
    alone, together = dict(results[1]["row"]), dict(results[world_size]["row"])
    alone.pop("rldk/resources/host_rss_gib")
    assert together.pop("rldk/resources/host_rss_gib") > 1.0
    assert len(alone) > 40
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_comes_to_the_same_row_in_one_collective_a_step(
    results: dict[int, dict[str, Any]], world_size: int
) -> None:
    assert results[world_size]["same_on_all"]
    assert results[world_size]["collectives"] == 2, "two steps, one collective each"
