"""Lines of the table in which a disk is full, locked or read-only."""

from __future__ import annotations

import contextlib
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.bench import Bench, Line, locked

UNLIMITED = 1_073_741_823
PAGE = 4096


def locked_store(bench: Bench, fault: str) -> Line:
    """A store that another process has locked, as sqlite's are while somebody writes much."""
    folder, run_id, store = bench.own_store()
    holder = locked(folder / "mlflow.db")
    doings = {
        bench.begin: lambda: holder.execute("BEGIN EXCLUSIVE"),
        bench.end: lambda: holder.execute("COMMIT"),
    }
    outcome = bench.train(folder, [MLflowTracker(run_id=run_id, tracking_uri=store)], doings)
    holder.close()
    return bench.line(fault, outcome, folder, run_id, store)


def full_store(bench: Bench, fault: str) -> Line:
    """A database that cannot grow, which sqlite reports as it does a full disk: "database or disk is full"."""
    import sqlalchemy

    folder, run_id, store = bench.own_store()
    size = (folder / "mlflow.db").stat().st_size // PAGE
    most = {"pages": UNLIMITED}

    def limit(connection: Any, record: Any, proxy: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {most['pages']}")

    doings = {bench.begin: lambda: most.update(pages=size + 1), bench.end: lambda: most.update(pages=UNLIMITED)}
    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "checkout", limit)
    try:
        tracker = MLflowTracker(run_id=run_id, tracking_uri=store)
        outcome = bench.train(folder, [tracker], doings)
        most["pages"] = UNLIMITED
        return bench.line(fault, outcome, folder, run_id, store)
    finally:
        sqlalchemy.event.remove(sqlalchemy.pool.Pool, "checkout", limit)


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own. Raises CalledProcessError where this user may mount none."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rldk", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def full_disk(bench: Bench, fault: str, down: bool = False) -> Line | None:
    """No room for the calls that wait nor for a copy; with `down` while the server answers nothing for a while."""
    folder, run_id = bench.new()
    doings = {bench.begin: lambda: bench.proxy.tell(503), bench.end: bench.proxy.tell} if down else {}
    try:
        with mounted(folder / "full", "size=64k") as place:
            trackers = [MLflowTracker(run_id=run_id, tracking_uri=bench.proxy.url), JsonlTracker(place)]
            outcome = bench.train(folder, trackers, doings, output_dir=str(place))
            return bench.line(fault, outcome, folder, run_id)
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
        return bench.line(fault, outcome, folder, run_id)
