from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.checkpoint import division as module
from rldk_tracking.checkpoint.background import BackgroundScans
from rldk_tracking.checkpoint.division import FOLDER, Division, Request
from rldk_tracking.checkpoint.scan import scan


def ranks(folder: Path, count: int = 2) -> list[Division]:
    return [Division(folder, rank, count, least_bytes=0) for rank in range(count)]


def test_shares_of_all_ranks_make_the_whole(saved: Any, tmp_path: Path) -> None:
    first, second = saved.pair()
    whole = scan(second, {"previous": first})
    scans = [BackgroundScans("standard", division) for division in ranks(tmp_path)]
    scans[1].help()
    scans[0].submit(second, {"previous": first})
    (found,) = scans[0].close(timeout=100.0)
    assert scans[1].close(timeout=100.0) == []
    assert found.tensors == whole.tensors
    assert found.compared == whole.compared and found.entries == whole.entries
    assert not (tmp_path / FOLDER).exists()


def test_a_rank_that_does_not_answer_is_waited_for_once(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.setattr(module, "PATIENCE_FACTOR", 0.0)
    first, second = saved.pair()
    own = ranks(tmp_path)[0]
    scans = BackgroundScans("standard", own)
    scans.submit(second, {"previous": first})
    (found,) = scans.close(timeout=100.0)
    assert found.tensors == scan(second, {"previous": first}).tensors
    assert not own.applies(second)


def test_a_request_goes_to_each_rank_once_and_back(saved: Any, tmp_path: Path) -> None:
    first, second = saved.pair()
    own, *others = ranks(tmp_path, 3)
    request = Request(second, {"previous": first})
    own.ask(request)
    for division in others:
        assert division.requests() == [request]
        assert division.requests() == []
        division.deliver(request, scan(second, share=(division.rank, 3)))
    parts = own.collect(request, 0.0, lambda: False)
    assert set(parts) == {1, 2}
    assert parts[1].tensors == scan(second, share=(1, 3)).tensors
    assert [file.name for file in (tmp_path / FOLDER).iterdir()] == []
    assert not others[0].over
    own.clear()
    assert others[0].over


def test_waiting_ends_with_the_training(saved: Any, tmp_path: Path) -> None:
    first, _ = saved.pair()
    own = ranks(tmp_path)[0]
    began = time.monotonic()
    assert own.collect(Request(first, {}), 0.0, lambda: True) == {}
    assert time.monotonic() - began < module.PATIENCE / 2


def test_small_checkpoints_are_not_divided(saved: Any, tmp_path: Path) -> None:
    first, _ = saved.pair()
    assert not Division(tmp_path, 0, 2).applies(first)
    assert Division(tmp_path, 0, 2, least_bytes=1000).applies(first)
