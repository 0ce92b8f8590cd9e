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

from rldk_tracking.checkpoint.background import QUEUE_LENGTH, BackgroundScans, Request, ScanProcess
from rldk_tracking.checkpoint.scan import scan

_OTHERS: set[int] = set()
"""Processes that earlier tests of this process left to run, such as servers that several share."""


@pytest.fixture(autouse=True)
def _only_new_ones() -> None:
    _OTHERS.clear()
    _OTHERS.update(process.pid for process in psutil.Process().children(recursive=True))


def children() -> list[str]:
    found = psutil.Process().children(recursive=True)
    return [p.name() for p in found if p.pid not in _OTHERS and p.status() != psutil.STATUS_ZOMBIE]


def test_the_same_as_in_this_process(saved: Any) -> None:
    first, second = saved.pair()
    scans = BackgroundScans("full")
    scans.submit(first, {})
    scans.submit(second, {"previous": first, "first": first})
    found = scans.close(timeout=60.0)
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


def test_a_folder_without_weights_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scans = BackgroundScans("light")
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "pytorch_model_fsdp_0").mkdir(parents=True)
        scans.submit(folder, {})
    scans.submit(tmp_path / "checkpoint-3", {})  # deleted meanwhile: no fault
    assert scans.close(timeout=60.0) == []
    assert caplog.text.count("holds no weights") == 1


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


def test_a_checkpoint_that_was_deleted_is_no_error(saved: Any, caplog: pytest.LogCaptureFixture) -> None:
    first, second = saved.pair()
    shutil.rmtree(first)
    scans = BackgroundScans()
    scans.submit(first, {})
    scans.submit(second, {"previous": first})
    found = scans.close(timeout=60.0)
    assert [one.step for one in found] == [20]
    assert found[0].compared == ()
    assert caplog.text == ""


def test_a_scan_that_dies_takes_nothing_with_it(
    saved: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first, second = saved.pair()
    broken = tmp_path / "broken"
    broken.mkdir()
    # The first process finds a module that ends it where the package imports numpy.
    (broken / "numpy.py").write_text("import os\nos.kill(os.getpid(), 7)\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(broken))
        scans = BackgroundScans()
        scans.submit(first, {})
        assert scans.close(timeout=60.0) == []
    assert "checkpoint-10 failed: its process ended with -7" in caplog.text
    scans = BackgroundScans()
    scans.submit(second, {})
    assert len(scans.close(timeout=60.0)) == 1


def test_a_process_that_is_ended_leaves_nothing(saved: Any) -> None:
    first, _ = saved.pair()
    process = ScanProcess(Request(first, {}), "standard")
    process.terminate()
    assert process.has_ended and children() == []


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint-1"):
        ScanProcess(Request(tmp_path / "checkpoint-1", {}), "light").result()


def test_no_process_is_to_be_had(saved: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = saved.pair()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    scans = BackgroundScans()
    scans.submit(first, {})
    assert scans.close(timeout=5.0) == []
    assert "cannot be started" in caplog.text


def test_the_process_imports_neither_torch_nor_the_command_line(saved: Any) -> None:
    first, _ = saved.pair()
    code = (
        "import runpy, sys\n"
        f"sys.argv[1:] = [{str(first)!r}]\n"
        "try:\n"
        "    runpy.run_module('rldk_tracking.checkpoint', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'rldk_tracking.cli' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_queue_is_bounded(saved: Any) -> None:
    first, second = saved.pair()
    scans = BackgroundScans()
    for _ in range(3 * QUEUE_LENGTH):
        scans.submit(first, {})
    scans.submit(second, {})
    assert len(scans._queue) == QUEUE_LENGTH
    assert scans._queue[-1].path == second, "the oldest are given up"
    scans.close(timeout=0.0)
    assert children() == []
