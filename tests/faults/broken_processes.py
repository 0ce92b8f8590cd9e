"""Lines of the table in which the training's process ends in the middle."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rldk_tracking.trackers.journal import read
from tests.faults.bench import Bench, Line
from tests.faults.processes import start, steps_said
from tests.faults.scenario import Outcome

SECONDS = 900


def ended(bench: Bench, fault: str, how: str, down: bool = False, world_size: int = 1, middle: bool = False) -> Line:
    """Half-way, on the last of the ranks; with `down` the server answers nothing before and after."""
    folder, run_id = bench.new()
    bench.proxy.tell(503 if down else None)
    place = {"folder": str(folder), "tracking_uri": bench.proxy.url, "run_id": run_id}
    done = start(world_size, SECONDS, **place, end=how, at=bench.steps // 2, middle=middle, steps=bench.steps)
    bench.proxy.tell()
    return bench.line(fault, outcome(folder, done), folder, run_id)


def resumed(bench: Bench, fault: str) -> Line:
    """Killed half-way, and gone on in another process from a checkpoint that is older than what was written."""
    folder, run_id = bench.new()
    every, at = max(1, bench.steps // 5), bench.steps // 2
    place = {"folder": str(folder), "tracking_uri": bench.proxy.url, "run_id": run_id}
    saving = {"steps": bench.steps, "save_steps": every}
    start(1, SECONDS, **place, **saving, end="kill", at=at)
    done = start(1, SECONDS, **place, **saving, resume=str(folder / f"checkpoint-{at // every * every}"))
    found = outcome(folder, done)
    # Of a step that was made twice each store keeps whichever came first, and the first after a start lacks some keys.
    found.produced = {(key, step) for key, step in found.produced if key == "rldk/reward/mean"}
    return bench.line(fault, found, folder, run_id)


def outcome(folder: Path, done: subprocess.CompletedProcess[str]) -> Outcome:
    """What the training said and wrote before it ended: whole rows, and what was known of steps without one."""
    if not steps_said(done):
        raise RuntimeError(done.stderr[-3000:])
    rows = [record for record in read(folder / "produced" / "run.jsonl") if record["type"] == "metrics"]
    return Outcome(steps=max(steps_said(done)), produced={(key, row["step"]) for row in rows for key in row["metrics"]})
