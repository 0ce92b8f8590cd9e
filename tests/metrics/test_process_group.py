"""How ranks come to one decision; groups of real processes are made in tests/test_ranks.py."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from rldk_tracking.metrics import process_group
from rldk_tracking.metrics.process_group import Membership, join, meet


def meeting(arrivals: list[float | None], wait_s: float) -> list[dict[int, Any] | None]:
    """What each rank gets to know; a thread stands for a rank, None for one that never comes."""
    store, answers = dist.HashStore(), [None] * len(arrivals)

    def come(rank: int, after: float) -> None:
        time.sleep(after)
        answers[rank] = meet(PrefixStore("meeting", store), rank, len(arrivals), f"rank {rank}", wait_s)

    threads = [threading.Thread(target=come, args=(r, after)) for r, after in enumerate(arrivals) if after is not None]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return answers


def test_when_all_have_come_each_knows_what_each_said() -> None:
    begin = time.monotonic()
    answers = meeting([0.0, 0.1, 0.05], wait_s=20.0)
    assert answers == [{0: "rank 0", 1: "rank 1", 2: "rank 2"}] * 3
    assert time.monotonic() - begin < 2.0


def test_a_rank_that_never_comes_is_missing_for_all() -> None:
    answers = meeting([None, 0.0, 0.1], wait_s=0.5)
    assert answers == [None, {1: "rank 1", 2: "rank 2"}, {1: "rank 1", 2: "rank 2"}]


@pytest.mark.parametrize("seed", range(4))
def test_all_go_by_one_answer_when_the_last_comes_as_the_first_loses_patience(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many meetings at once, in which the last rank comes around the time limit."""
    monkeypatch.setattr(process_group, "GRACE_S", 0.0)
    monkeypatch.setattr(process_group, "POLL_S", 0.02)
    draw, found = random.Random(seed), [None] * 40

    def one(number: int) -> None:
        arrivals = [0.0, 0.0, draw.uniform(0.15, 0.6)]
        found[number] = meeting(arrivals, wait_s=0.3)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answers in found:
        assert answers is not None
        assert answers[0] == answers[1] == answers[2], "also the late one's"
        assert len(answers[0]) in (2, 3)
    assert {len(answers[0]) for answers in found} == {2, 3}, "both came about"


def test_the_first_rank_decides_and_the_others_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that wait would otherwise ask the store for every rank at the same moment."""
    asked: list[str] = []

    class Counting(dist.HashStore):
        def compare_set(self, key: str, expected: str, value: str) -> bytes:
            asked.append(key)
            time.sleep(0.5)
            return bytes(super().compare_set(key, expected, value))

    store = Counting()
    threads = [threading.Thread(target=meet, args=(store, rank, 9, None, 0.3)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["answer"]


def test_without_a_job_there_is_nobody_to_meet() -> None:
    alone = join({"schema": ""}, wait_s=30.0)
    assert alone == Membership()
    assert (alone.missing, alone.is_late, alone.is_lowest, alone.group) == ([], False, True, None)


@pytest.mark.parametrize(
    ("rank", "said", "missing", "is_late", "is_lowest"),
    [
        (0, (0, 1, 2), [], False, True),
        (1, (0, 1, 2), [], False, False),
        (1, (1, 2), [0], False, True),
        (2, (1, 2), [0], False, False),
        (0, (1, 2), [], True, False),
    ],
)
def test_who_is_missing_and_who_comes_first(
    rank: int, said: tuple[int, ...], missing: list[int], is_late: bool, is_lowest: bool
) -> None:
    found = Membership(rank, 3, {other: {} for other in said})
    assert (found.missing, found.is_late, found.is_lowest) == (missing, is_late, is_lowest)


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([4], "Rank 4"),
        ([0, 2, 5], "Ranks 0, 2 and 5"),
        (list(range(1, 1024)), "Ranks 1, 2, 3, 4, 5, 6, 7, 8 and 1015 others"),
    ],
)
def test_ranks_are_listed_up_to_some_number(ranks: list[int], text: str) -> None:
    assert process_group._listed(ranks) == text


def test_a_store_that_fails_leaves_each_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("connection reset")

    monkeypatch.setattr(process_group, "meet", broken)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", dist.HashStore)
    found = join({"schema": ""}, wait_s=30.0)
    assert "connection reset" in found.obstacle
    assert found.group is None
    assert not found.is_lowest
