"""Lines of the table in which a disk is full, locked or read-only."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.bench import Bench, Line

FREE_BYTES = 64 * 1024
"""Of a store's disk while it is full: some rows still go in."""


def new_store(bench: Bench, folder: Path) -> tuple[str, str]:
    """An sqlite store in a folder, and a run in it."""
    import mlflow

    shutil.copy(bench.empty, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return uri, str(mlflow.MlflowClient(tracking_uri=uri).create_run("0").info.run_id)


def locked_store(bench: Bench, fault: str) -> Line:
    """A store that another process has locked, as sqlite's are while somebody writes much."""
    folder = bench.folder()
    store, run_id = new_store(bench, folder)
    holder = sqlite3.connect(folder / "mlflow.db", isolation_level=None, check_same_thread=False)
    doings = {
        bench.begin: lambda: holder.execute("BEGIN EXCLUSIVE"),
        bench.end: lambda: holder.execute("COMMIT"),
    }
    outcome = bench.train(folder, [MLflowTracker(run_id=run_id, tracking_uri=store)], doings)
    holder.close()
    return bench.line(fault, outcome, folder, run_id, store=store)


class SmallDisk:
    """A file system of its own with room for a store, that can be filled and freed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def fill(self) -> None:
        """Leave next to nothing."""
        free = shutil.disk_usage(self.place).free - FREE_BYTES
        with contextlib.suppress(OSError):  # the store itself has just taken what was left
            self._filler.write_bytes(bytes(max(0, free)))

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own. Raises CalledProcessError where this user may mount none."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rldk", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def full_store(bench: Bench, fault: str) -> Line | None:
    """The disk of the database is full for a while: sqlite says "database or disk is full"."""
    folder = bench.folder()
    try:
        with mounted(folder / "disk", "size=64m") as place:
            store, run_id = new_store(bench, place)
            disk = SmallDisk(place)
            doings = {bench.begin: disk.fill, bench.end: disk.free}
            outcome = bench.train(folder, [MLflowTracker(run_id=run_id, tracking_uri=store)], doings)
            return bench.line(fault, outcome, folder, run_id, store=store)
    except subprocess.CalledProcessError:
        return None


def full_disk(bench: Bench, fault: str, down: bool = False) -> Line | None:
    """No room for a journal nor for a copy; with `down` while the server answers nothing for a while."""
    folder, run_id = bench.new()
    doings = {bench.begin: lambda: bench.proxy.tell(503), bench.end: bench.proxy.tell} if down else {}
    try:
        with mounted(folder / "full", "size=64k") as place:
            trackers = [MLflowTracker(run_id=run_id, tracking_uri=bench.proxy.url), JsonlTracker(place / "copy")]
            outcome = bench.train(folder, trackers, doings, output_dir=str(place))
            return bench.line(fault, outcome, folder, run_id, delivery_s=0)
    except subprocess.CalledProcessError:
        return None


def read_only(bench: Bench, fault: str) -> Line:
    """A folder in which nothing can be written. Where none can be mounted, a file stands in its place."""
    folder, run_id = bench.new()
    tracker = MLflowTracker(run_id=run_id, tracking_uri=bench.proxy.url)
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(mounted(folder / "read-only", "ro"))
        except subprocess.CalledProcessError:
            place = folder / "in-the-way"
            place.write_text("")
            place.chmod(stat.S_IRUSR)
        outcome = bench.train(folder, [tracker], {}, output_dir=str(place))
        return bench.line(fault, outcome, folder, run_id, delivery_s=0)
