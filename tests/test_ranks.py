"""Real processes with a gloo group: what rank 0 has is what all sent, and nobody waits for a rank that never comes."""

from __future__ import annotations

import importlib.util
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from rldk_tracking.metrics.keys import lookup
from rldk_tracking.ranks import MERGED_ROWS, SPREAD, Merged, Part, Ranks, _over_ranks, rows_sent
from tests import exchange_script
from tests.exchange_script import SMALL, small

pytestmark = pytest.mark.ranks

BENCHMARK = Path(__file__).parent / "benchmarks" / "ranks.py"
DEADLINE_S = 60
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def processes() -> Any:
    """Starts processes that have torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.exchange_script"])
    return context


@pytest.fixture
def on_ranks(processes: Any, tmp_path: Path) -> Run:
    """`on_ranks("exchange", 2)`: what each rank found, {} of one that did not live to say so."""

    def run(scenario: str, world: int, **options: Any) -> list[dict[str, Any]]:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        started = [
            processes.Process(
                target=exchange_script.main,
                args=(scenario, rank, world, store.port, str(tmp_path), options),
                daemon=True,
            )
            for rank in range(world)
        ]
        for process in started:
            process.start()
        end = time.monotonic() + DEADLINE_S
        for process in started:
            process.join(max(0.1, end - time.monotonic()))
        waiting = [rank for rank, process in enumerate(started) if process.is_alive()]
        for process in started:
            process.kill()
        assert not waiting, f"ranks {waiting} never came back"
        files = [tmp_path / f"{rank}.json" for rank in range(world)]
        return [json.loads(file.read_text()) if file.exists() else {} for file in files]

    return run


# What is exchanged, against lists that plain Python puts together.


def joined(parts: Sequence[dict[str, Any]], table: str) -> dict[str, list[float]]:
    names = {name for part in parts for name in part[table]}
    rows = [len(next(iter(part[table].values()), [])) for part in parts]
    missing = [[math.nan] * count for count in rows]
    return {
        name: [x for part, nothing in zip(parts, missing, strict=True) for x in part[table].get(name, nothing)]
        for name in names
    }


def p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    position = 0.99 * (len(ordered) - 1)
    low, high = ordered[math.floor(position)], ordered[math.ceil(position)]
    return low + (high - low) * (position - math.floor(position))


def over_ranks(parts: Sequence[dict[str, Any]]) -> dict[str, float]:
    found = {"mine": parts[0]["scalars"]["mine"]}  # a name of the user's own: rank 0's, as its trainer logs it
    for key in ("rldk/resources/host_rss_gib", "rldk/train/loss"):
        values = [part["scalars"][key] for part in parts if key in part["scalars"]]
        known = lookup(key)
        assert known is not None
        found[key] = {"mean": statistics.fmean, "max": max}[known.reduce](values)
    return found


@pytest.mark.parametrize("world", [1, 2, 3])
def test_rank_0_has_what_all_ranks_sent(on_ranks: Run, world: int) -> None:
    results = on_ranks("exchange", world)
    assert [result["writes"] for result in results] == [True, False, False][:world]
    assert {result["world_size"] for result in results} == {world}
    for number in range(4):
        steps = [result["steps"][number] for result in results]
        assert [step["merged"] for step in steps[1:]] == [None] * (world - 1)
        assert [step["flags"] for step in steps] == [2] * world, "rank 0's, on all"
        parts, merged = [step["part"] for step in steps], steps[0]["merged"]
        for table in ("rollout", "update"):
            expected = joined(parts, table)
            assert merged[table].keys() == expected.keys()
            for name, column in expected.items():
                assert merged[table][name] == pytest.approx(column, nan_ok=True, rel=1e-15), name
        for name in ("kl/log_ratio", "advantage/magnitude"):
            values = [value for part in parts for value in part["tails"].get(name, [])]
            assert merged["p99"][name] == pytest.approx(p99(values))
        assert merged["scalars"] == pytest.approx(over_ranks(parts))
        probes = [part["probe"] for part in parts if part["probe"] is not None]
        assert merged["probes"] == [pytest.approx(probe, nan_ok=True) for probe in probes]
        assert merged["names"] == ["accuracy", "format"]


def test_the_same_batch_gives_the_same_row_on_any_number_of_ranks(on_ranks: Run) -> None:
    rows = [[step["row"] for step in on_ranks("exchange", world)[0]["steps"]] for world in (1, 2, 3)]
    assert len(rows[0][0]) > 40
    for key in ("rldk/resources/host_rss_gib", "rldk/train/loss"):  # a rank's own
        for row in (row for steps in rows for row in steps):
            row.pop(key)
    for steps in rows[1:]:
        assert steps == [pytest.approx(row, rel=1e-5, abs=1e-12) for row in rows[0]]


@pytest.mark.parametrize("world", [2, 3])
def test_one_gather_and_one_flag_a_step(on_ranks: Run, world: int) -> None:
    for result in on_ranks("exchange", world):
        assert result["calls"] == ["all_reduce", *["gather", "broadcast"] * 4], "the first settles lengths"


def test_a_rank_that_cannot_pack_sends_nothing_and_keeps_nobody_waiting(on_ranks: Run) -> None:
    first, second, third = on_ranks("fault", 3)
    whole, broken = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0], [0.0, 1.0, 20.0, 21.0]
    assert [step["rollout"]["a"] for step in first["merged"]] == [whole, broken, broken, whole]
    assert [step["scalars"]["rldk/train/loss"] for step in first["merged"]] == [1.0, 1.0, 1.0, 1.0]
    assert len(second["messages"]) == 1, "once, not at every step"
    assert "cannot be packed" in second["messages"][0]
    assert first["messages"] == third["messages"] == []


def test_more_rows_than_were_agreed_on_are_left_out_and_that_is_said_once(on_ranks: Run) -> None:
    first, last = on_ranks("more_rows", 2)
    assert [step["rollout"]["a"] for step in first["merged"]] == [[0.0, 1.0, 10.0, 11.0]] * 3
    assert [step["update"]["c"] for step in first["merged"]] == [[0.0, -1.0, -10.0, -11.0]] * 3
    assert first["messages"] == []
    assert len(last["messages"]) == 1
    assert "4 completions, but the ranks agreed on 2" in last["messages"][0]


def test_of_a_large_batch_each_rank_sends_its_first_rows(on_ranks: Run) -> None:
    first, second, third = on_ranks("many_rows", 3)
    assert first["merged"][0]["rollout"]["a"] == [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0, 20.0, 21.0, 22.0, 23.0]
    assert first["messages"] == second["messages"] == third["messages"] == []


def test_how_many_rows_are_sent() -> None:
    assert rows_sent(7, 3) == 7
    assert [rows_sent(128, ranks) for ranks in (1, 64, 65, 256, 1024, 100_000)] == [128, 128, 64, 32, 8, 1]
    assert rows_sent(1_000_000, 1) == MERGED_ROWS


def test_trainings_in_the_same_processes_do_not_meet_each_other(on_ranks: Run) -> None:
    first, second = on_ranks("trainings", 2)
    expected = [[0.0, 10.0], [0.0, 1.0, 10.0, 11.0], [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]]
    assert [step["rollout"]["a"] for step in first["merged"]] == expected
    assert second["merged"] == [None, None, None]
    assert first["messages"] == second["messages"] == []
    assert first["groups"] == second["groups"] == [1, 1, 1], "the groups of trainings that are over are closed"


def test_who_waits_for_whom(on_ranks: Run) -> None:
    first, second = on_ranks("waiting", 2)
    assert first["waited"][1] > 0.5, "less than the second, for a busy machine"
    assert second["waited"][1] < 0.4, "rank 0's own work of half a second is no waiting of the others"
    assert second["waited"][2] > 0.5 and first["waited"][2] < 0.4
    assert 0.2 < first["merged"]["scalars"][SPREAD] < 2.0, "of the third step, sent with the fourth"


def test_after_a_rank_has_died_the_others_go_on(on_ranks: Run) -> None:
    first, second, third = on_ranks("death", 3)
    assert third == {}
    assert [step["rollout"]["a"] for step in first["merged"]] == [[0.0, 1.0, 10.0, 11.0, 20.0, 21.0], *[[0.0, 1.0]] * 2]
    assert second["merged"] == [None, None, None]
    assert first["flags"] == [1, 0, 0], "a stop that not every rank hears of is none"
    assert (first["world_size"], second["world_size"]) == (1, 1)
    for rank in (first, second):
        assert len(rank["messages"]) == 1
        assert "given up" in rank["messages"][0]


def test_an_exchange_that_fails_on_rank_0_leaves_nobody_waiting(on_ranks: Run) -> None:
    results = on_ranks("broken", 3)
    assert [step["rollout"]["a"] for step in results[0]["merged"]][1:] == [[0.0, 1.0]] * 2
    assert [result["world_size"] for result in results] == [1, 1, 1]
    assert max(result["seconds"] for result in results) < 20, "less than the time limit of the group"


def test_single_numbers_are_merged_as_their_keys_say() -> None:
    """Spread, highest, lowest, sum, mean, and one that nobody has."""
    keys = (
        SPREAD,
        "rldk/resources/host_rss_gib",
        "rldk/checkpoint/room_for_saves",
        "rldk/throughput/tokens_per_second",
        "rldk/train/loss",
        "rldk/grad/norm",
    )
    numbers = [
        [0.25, 1.0, 4.0, 10.0, 1.0, math.nan],
        [0.75, 3.0, 9.0, 20.0, math.nan, math.nan],
        [0.5, 2.0, 8.0, 30.0, 2.0, math.nan],
    ]
    found = _over_ranks(keys, np.array(numbers))
    assert found == dict(zip(keys[:5], [0.5, 3.0, 4.0, 60.0, 1.5], strict=True))


# Who takes part.

ALONE = {0: [0.0, 1.0], 1: [10.0, 11.0], 2: [20.0, 21.0]}


@pytest.mark.parametrize(
    ("world", "having"),
    [(2, [0]), (2, [1]), (2, []), (2, [0, 1]), (3, [0]), (3, [1]), (3, [1, 2]), (3, []), (3, [0, 1, 2])],
)
def test_no_rank_waits_for_one_that_lacks_the_callback(on_ranks: Run, world: int, having: list[int]) -> None:
    results = on_ranks("handshake", world, having=having, wait_s=1.0)
    lacking = [rank for rank in range(world) if rank not in having]
    for rank in having:
        found = results[rank]
        assert (found["rank"], found["job_size"], found["is_alone_of"]) == (rank, world, len(lacking))
        assert found["writes"] == (rank == having[0])
        if not lacking:
            assert found["world_size"] == world
            assert found["flags"] == 3
            assert found["messages"] == []
            assert found["seconds"] < 10
            continue
        assert found["world_size"] == 1
        assert found["calls"] == []
        assert found["flags"] == 0, "it must not stop the training without the others"
        assert found["seconds"] < 8
        if rank != having[0]:
            assert found["merged"] is None
            assert found["messages"] == []
            continue
        assert found["merged"]["rollout"]["a"] == ALONE[rank]
        assert len(found["messages"]) == 1
        for piece in (
            f"Rank{'s' * (len(lacking) > 1)} {lacking[0]}",
            "callbacks=[RLDKCallback()]",
            f"Rank {rank} goes on",
        ):
            assert piece in found["messages"][0]
    if having and not lacking:
        assert results[0]["merged"]["rollout"]["a"] == [value for rank in range(world) for value in ALONE[rank]]


def test_a_rank_that_comes_late_is_waited_for(on_ranks: Run) -> None:
    results = on_ranks("handshake", 2, having=[0, 1], wait_s=20.0, late_s=[0.0, 3.0])
    assert results[0]["merged"]["rollout"]["a"] == [0.0, 1.0, 10.0, 11.0]
    assert results[0]["seconds"] > 2.5
    assert results[0]["messages"] == results[1]["messages"] == []


def test_a_rank_that_comes_when_the_others_have_decided_keeps_to_it(on_ranks: Run) -> None:
    """Rank 0 is too late: rank 1 writes already, so rank 0 must not."""
    results = on_ranks("handshake", 2, having=[0, 1], wait_s=2.0, late_s=[4.0, 0.0])
    assert [result["writes"] for result in results] == [False, True]
    assert [result["world_size"] for result in results] == [1, 1]
    assert results[0]["seconds"] < 1.9
    assert results[0]["merged"] is None
    assert results[1]["merged"]["rollout"]["a"] == [10.0, 11.0]
    assert "Rank 0 came when the others had waited" in results[0]["messages"][0]


def test_different_versions_do_not_mix(on_ranks: Run) -> None:
    results = on_ranks("handshake", 3, having=[0, 1, 2], other=2)
    assert [result["writes"] for result in results] == [True, False, False]
    assert [result["world_size"] for result in results] == [1, 1, 1]
    assert [result["calls"] for result in results] == [[], [], []]
    assert "Rank 2 of 3 has other series than rank 0" in results[0]["messages"][0]


@pytest.mark.parametrize("connects", [False, True])
def test_a_rank_that_cannot_be_connected_leaves_nobody_waiting(on_ranks: Run, connects: bool) -> None:
    results = on_ranks("handshake", 2, having=[0, 1], failing=1, connects=connects)
    assert [result["world_size"] for result in results] == [1, 1]
    assert [result["writes"] for result in results] == [True, False]
    assert results[0]["merged"]["rollout"]["a"] == [0.0, 1.0]
    assert "could not be connected" in results[0]["messages"][0]
    assert results[0]["groups"] == 1, "the job's"


def test_where_the_probe_is_known_nothing_is_left_to_be_settled(on_ranks: Run) -> None:
    results = on_ranks("handshake", 2, having=[0, 1], probe=4)
    assert [result["calls"] for result in results] == [["gather", "broadcast"]] * 2


def test_without_gloo_the_exchange_is_the_jobs_own_kind(on_ranks: Run) -> None:
    results = on_ranks("handshake", 2, having=[0, 1], gloo=False)
    assert results[0]["merged"]["rollout"]["a"] == [0.0, 1.0, 10.0, 11.0]
    assert [result["flags"] for result in results] == [3, 3]


@pytest.mark.parametrize("debug", ["OFF", "DETAIL"])
def test_our_group_has_the_time_limit_of_the_job(on_ranks: Run, debug: str) -> None:
    results = on_ranks("lasting", 2, debug=debug)
    assert results[0]["merged"]["rollout"]["a"] == [0.0, 1.0, 10.0, 11.0]
    assert [result["limits"] for result in results] == [[40.0], [40.0]]


# A process alone.


def test_a_process_alone_needs_no_group() -> None:
    ranks = Ranks(SMALL)
    assert (ranks.rank, ranks.job_size, ranks.world_size, ranks.is_alone_of, ranks.writes) == (0, 1, 1, 0, True)
    merged = ranks.start(small(0, rows=600)).merged()
    assert merged is not None
    assert merged.rollout.columns["a"].tolist() == [float(row) for row in range(600)], "no limit of rows"
    assert ranks.agree(5) == 5


def test_a_fault_of_a_process_alone_is_its_callers() -> None:
    """Nobody waits for it, and a shield knows what to do."""
    with pytest.raises(AttributeError):
        Ranks(SMALL).start(Part({"a": "no tensor"}))  # type: ignore[dict-item]


def test_columns_that_the_schema_does_not_know_exist_alone() -> None:
    merged = Ranks(SMALL).start(Part(small(0).update | {"z": small(0).update["c"]}, scalars={"mine": 1.0})).merged()
    assert isinstance(merged, Merged)
    assert set(merged.rollout.columns) == {"c", "z"}
    assert merged.scalars == {"mine": 1.0}


# What it costs.


def test_the_benchmark_counts_what_each_rank_does(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("ranks_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = benchmark.main(["--ranks", "2", "64", "--rows", "16", "--tokens", "24", "--repeat", "3"])
    assert results[64]["megabytes"] == pytest.approx(32 * results[2]["megabytes"])
    assert results[64]["other"] < 10 * results[2]["other"], "the same, however many ranks there are"
    assert all(value > 0 for found in results.values() for value in found.values())
    assert "rank 0: unpack" in capsys.readouterr().out


def test_rules_that_differ_by_rank_are_said_by_rank_0_whose_they_are(on_ranks: Run) -> None:
    results = on_ranks("settings", 3)
    (said,) = results[0]["messages"]
    assert "1 of 3 ranks (first of them rank 2) have other rules or another on_critical than rank 0" in said
    assert [result["messages"] for result in results[1:]] == [[], []]
    assert [result["flags"] for result in results] == [1, 1, 1], "rank 0's, on all"
