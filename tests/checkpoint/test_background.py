"""Scans in processes of their own: what comes back, what does not disturb, what is left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rldk_tracking.checkpoint import background
from rldk_tracking.checkpoint.background import BackgroundScans, Request, ScanProcess, Unscanned
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.scan import scan

_OTHERS: set[int] = set()
"""Processes that earlier tests of this process left to run, such as servers that several share."""


@pytest.fixture(autouse=True)
def _only_new_ones() -> None:
    _OTHERS.clear()
    _OTHERS.update(process.pid for process in psutil.Process().children(recursive=True))


def scanned(found: list[Scan | Unscanned]) -> list[Scan]:
    """All of them, which must be scans."""
    assert [one.reason for one in found if isinstance(one, Unscanned)] == []
    return [one for one in found if isinstance(one, Scan)]


def unscanned(found: list[Scan | Unscanned]) -> list[Unscanned]:
    """Those that were not scanned."""
    return [one for one in found if isinstance(one, Unscanned)]


def children() -> list[str]:
    found = psutil.Process().children(recursive=True)
    return [p.name() for p in found if p.pid not in _OTHERS and p.status() != psutil.STATUS_ZOMBIE]


def test_the_same_as_in_this_process(saved: Any) -> None:
    first, second = saved.pair()
    scans = BackgroundScans("full")
    scans.submit(first, {})
    scans.submit(second, {"previous": first, "first": first})
    found = scanned(scans.close(timeout=60.0))
    assert [one.step for one in found] == [10, 20]
    direct = scan(second, {"previous": first, "first": first}, level="full", vectors=scan(first, level="full").vectors)
    assert found[1].entries == direct.entries
    assert found[1].compared == ("previous", "first")
    for name, statistics in direct.tensors.items():
        assert found[1].tensors[name].drift == statistics.drift
        assert found[1].tensors[name].spectral_norm == (
            None if statistics.spectral_norm is None else pytest.approx(statistics.spectral_norm, rel=1e-3)
        )
    assert children() == []


def test_what_has_no_weights_comes_back_as_that(tmp_path: Path) -> None:
    scans = BackgroundScans("light")
    (tmp_path / "checkpoint-1" / "pytorch_model_fsdp_0").mkdir(parents=True)
    for step in (1, 3):  # the latter was deleted meanwhile
        scans.submit(tmp_path / f"checkpoint-{step}", {})
    found = unscanned(scans.close(timeout=60.0))
    assert [one.path.name for one in found] == ["checkpoint-1", "checkpoint-3"]
    assert all("holds no weights" in one.reason for one in found)


def test_it_costs_the_caller_nothing(saved: Any) -> None:
    first, _ = saved.pair()
    scans = BackgroundScans()
    scans.submit(first, {})
    start = time.perf_counter()
    for _ in range(20):
        scans.submit(first, {})
    assert (time.perf_counter() - start) / 20 < 5e-3
    assert scans.finished() == []  # does not wait
    begun = time.monotonic()
    scans.close(timeout=0.0)
    assert time.monotonic() - begun < 5.0
    assert children() == []


def test_a_comparison_that_was_deleted_is_left_out(saved: Any) -> None:
    first, second = saved.pair()
    shutil.rmtree(first)
    scans = BackgroundScans()
    scans.submit(second, {"previous": first})
    (found,) = scanned(scans.close(timeout=60.0))
    assert (found.step, found.compared) == (20, ())


def test_one_process_for_all_scans(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays between two saves: the last scan of a training does not wait for one to start."""
    first, second = saved.pair()
    started: list[ScanProcess] = []

    class Counted(ScanProcess):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            started.append(self)

    monkeypatch.setattr(background, "ScanProcess", Counted)
    scans = BackgroundScans()
    scans.submit(first, {})
    found = list(scans.finished())
    while not found:
        time.sleep(0.01)
        found += scans.finished()
    for _ in range(12):
        scans.submit(second, {"previous": first})
    found += scans.close(timeout=60.0)
    assert [one.step for one in scanned(found)] == [10] + 12 * [20]
    assert len(started) == 1 and children() == []


def test_each_save_ends_as_a_scan_or_with_a_reason(saved: Any) -> None:
    first, second = saved.pair()
    scans = BackgroundScans()
    for _ in range(5):
        scans.submit(first, {})
    scans.submit(second, {})
    began = time.monotonic()
    found = scans.close(timeout=0.0)
    assert time.monotonic() - began < 5.0
    assert [one.path.name for one in found] == 5 * ["checkpoint-10"] + ["checkpoint-20"]
    assert all("not over 0 s after the training's end" in one.reason for one in unscanned(found))
    assert children() == []


def test_a_process_that_had_nothing_to_do_is_replaced(saved: Any) -> None:
    first, second = saved.pair()
    scans = BackgroundScans()
    scans.submit(first, {})
    found: list[Scan | Unscanned] = []
    while not found:
        time.sleep(0.01)
        found += scans.finished()
    assert scans._process is not None
    scans._process._orders.close()  # it ends as after IDLE_S
    while not scans._process.has_ended:
        time.sleep(0.01)
    scans._process._orders = open("/dev/null", "wb")  # noqa: SIM115 - the order was taken and never read
    scans._starts = 0
    scans.submit(second, {})
    (last,) = scanned(scans.close(timeout=60.0))
    assert last.step == 20 and children() == []


def test_an_idle_process_ends_by_itself(saved: Any) -> None:
    code = (
        "import sys, rldk_tracking.checkpoint.__main__ as worker\n"
        "worker.IDLE_S = 0.3\n"
        "sys.argv[1:] = []\n"
        "sys.exit(worker.main() + 1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.wait(timeout=60) == 0, "not by the end of its input, which has none"


def test_a_scan_that_dies_takes_nothing_with_it(saved: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = saved.pair()
    broken = tmp_path / "broken"
    broken.mkdir()
    # The first process finds a module that ends it where the package imports numpy.
    (broken / "numpy.py").write_text("import os\nos.kill(os.getpid(), 7)\n")
    scans = BackgroundScans()
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(broken))
        scans.submit(first, {})
        found: list[Scan | Unscanned] = []
        while not found:
            time.sleep(0.01)
            found += scans.finished()
    (failed,) = unscanned(found)
    assert failed.path == first and "its process ended with -7" in failed.reason
    scans.submit(second, {})
    assert len(scanned(scans.close(timeout=60.0))) == 1


def test_a_process_that_is_ended_leaves_nothing(saved: Any) -> None:
    first, _ = saved.pair()
    process = ScanProcess("standard")
    process.ask(Request(first, {}))
    process.terminate()
    assert process.has_ended and children() == []


def test_no_process_is_to_be_had(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = saved.pair()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    scans = BackgroundScans()
    scans.submit(first, {})
    (failed,) = unscanned(scans.close(timeout=5.0))
    assert "cannot be started" in failed.reason


def test_the_process_imports_neither_torch_nor_the_command_line(saved: Any) -> None:
    first, _ = saved.pair()
    code = (
        "import io, json, runpy, sys\n"
        "sys.argv[1:] = []\n"
        f"sys.stdin = io.StringIO(json.dumps({{'path': {str(first)!r}, 'against': {{}}}}))\n"
        "try:\n"
        "    runpy.run_module('rldk_tracking.checkpoint', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'rldk_tracking.cli' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_queue_is_bounded(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "QUEUE_LENGTH", 3)
    first, second = saved.pair()
    scans = BackgroundScans()
    for _ in range(6):
        scans.submit(first, {})
    scans.submit(second, {})
    found = scans.close(timeout=0.0)
    assert len(found) == 7
    assert [one.reason for one in unscanned(found)].count("saves come faster than scans") == 3, "the oldest"
    assert children() == []
