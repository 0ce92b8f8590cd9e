"""Lines of the table in which the training's process ends in the middle."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.bench import Bench, Line, is_delivered
from tests.faults.broken_disks import SmallDisk, mounted, new_store
from tests.faults.channel import Channel
from tests.faults.processes import Running, couriers, start, steps_said, wait_for, waits_said
from tests.faults.scenario import Outcome, records, stored_in_mlflow

SECONDS = 900
AWAY_S = 3.0
"""A server that is away at a training's end comes back after so long."""


def ended(bench: Bench, fault: str, how: str, world_size: int = 1, middle: bool = False) -> Line:
    """Half-way, on the last of the ranks."""
    folder, run_id = bench.new()
    channel, at = bench.channel(), bench.steps // 2
    options = {**place_of(bench, folder, run_id), "slack_url": channel.url, "steps": bench.steps}
    done = start(world_size, SECONDS, **options, end=how, at=at, middle=middle)
    return bench.line(
        fault, outcome_of(folder, done), folder, run_id, promises=lambda: is_told(bench, run_id, channel, at)
    )


def is_told(bench: Bench, run_id: str, channel: Channel, step: int) -> dict[str, bool]:
    """What people see of a training that ended in the middle."""
    titles, texts = channel.titles("run.crashed"), channel.texts("run.crashed")
    return {
        "the status is crashed": bench.tags(run_id).get("rldk.status") == "crashed",
        "one message that it crashed": titles == ["rldk critical: run.crashed"],
        "the message names the last step": all(f"step {step}" in text for text in texts),
    }


def killed_while_down(bench: Bench, fault: str) -> Line:
    """The server answers nothing until the process is gone."""
    folder, run_id = bench.new()
    bench.proxy.tell(503)
    options = {**place_of(bench, folder, run_id), "steps": bench.steps}
    done = start(1, SECONDS, **options, end="kill", at=bench.steps // 2)
    return back_later(bench, fault, folder, run_id, done)


def away(bench: Bench, fault: str) -> Line:
    """A server that answers nothing from before the start to after the end."""
    folder, run_id = bench.new()
    bench.proxy.tell(503)
    done = start(1, SECONDS, **place_of(bench, folder, run_id), steps=bench.steps)
    return back_later(bench, fault, folder, run_id, done)


def back_later(bench: Bench, fault: str, folder: Path, run_id: str, done: subprocess.CompletedProcess[str]) -> Line:
    time.sleep(AWAY_S)
    stored = stored_in_mlflow(f"sqlite:///{bench.database}", run_id)
    bench.proxy.tell()
    return bench.line(
        fault, outcome_of(folder, done), folder, run_id, promises=lambda: {"nothing was stored before": not stored}
    )


def killed_with_a_full_store(bench: Bench, fault: str) -> Line | None:
    """The disk of the database is full from a tenth of the training on until the process is gone."""
    folder = bench.folder()
    try:
        with mounted(folder / "disk", "size=64m") as place:
            store, run_id = new_store(bench, place)
            disk = SmallDisk(place)
            training = Running(
                folder=str(folder),
                tracking_uri=store,
                run_id=run_id,
                steps=bench.steps,
                end="kill",
                at=bench.steps // 2,
            )
            training.wait_for_step(bench.begin)
            disk.fill()
            outcome = outcome_of(folder, training.finish(SECONDS))
            time.sleep(AWAY_S)
            before = {step for _, step in stored_in_mlflow(store, run_id)}
            disk.free()
            return bench.line(
                fault,
                outcome,
                folder,
                run_id,
                store=store,
                promises=lambda: {"rows were missing before": len(before) < outcome.steps},
            )
    except subprocess.CalledProcessError:
        return None


def killed_with_its_courier(bench: Bench, fault: str) -> Line:
    """Both at once, while the server is slow; `sync` sends the rest."""
    folder, run_id = bench.new()
    at = bench.steps // 2
    bench.proxy.tell(delay=0.5)
    training = Running(**place_of(bench, folder, run_id), steps=bench.steps)
    training.wait_for_step(at)
    for process in [*couriers(folder), training.process]:
        process.send_signal(signal.SIGKILL)
    outcome = outcome_of(folder, training.finish(SECONDS))
    bench.proxy.tell()
    before = {step for _, step in stored_in_mlflow(f"sqlite:///{bench.database}", run_id)}
    return bench.line(
        fault,
        outcome,
        folder,
        run_id,
        sync=True,
        promises=lambda: {
            "no courier is left": not couriers(folder),
            "rows were missing before": len(before) < outcome.steps,
            "the status is crashed": bench.tags(run_id).get("rldk.status") == "crashed",
        },
    )


def courier_killed(bench: Bench, fault: str) -> Line:
    """In mid-run, twice."""
    folder, run_id = bench.new()
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: couriers(folder), 60)
        for process in couriers(folder):
            killed.append(process.pid)
            process.kill()

    doings = {bench.steps // 3: kill, 2 * bench.steps // 3: kill}
    tracker = MLflowTracker(run_id=run_id, tracking_uri=bench.proxy.url)
    outcome = bench.train(folder, [tracker], doings)
    return bench.line(fault, outcome, folder, run_id, promises=lambda: {"it was started again": len(set(killed)) == 2})


def resumed(bench: Bench, fault: str) -> Line:
    """Killed half-way, and gone on in another process from a checkpoint that is older than what was written."""
    folder, run_id = bench.new()
    channel = bench.channel()
    every, at = max(1, bench.steps // 5), bench.steps // 2
    options = {**place_of(bench, folder, run_id), "slack_url": channel.url, "steps": bench.steps, "save_steps": every}
    start(1, SECONDS, **options, end="kill", at=at)
    wait_for(lambda: is_delivered(folder), 30)
    done = start(1, SECONDS, **options, resume=str(folder / f"checkpoint-{at // every * every}"))
    found = outcome_of(folder, done)
    # Of a step that was made twice each store keeps whichever came first, and the first after a start lacks some keys.
    found.produced = {(key, step) for key, step in found.produced if key == "rldk/reward/mean"}
    told = ["rldk critical: run.crashed", "rldk resolved: run.crashed"]
    return bench.line(
        fault,
        found,
        folder,
        run_id,
        promises=lambda: {
            "the crash is told once, and its end": channel.titles("run.crashed") == told,
            "the status is finished": bench.tags(run_id).get("rldk.status") == "finished",
        },
    )


def place_of(bench: Bench, folder: Path, run_id: str) -> dict[str, Any]:
    """Where a training is, and where it reports to."""
    return {"folder": str(folder), "tracking_uri": bench.proxy.url, "run_id": run_id}


def outcome_of(folder: Path, done: subprocess.CompletedProcess[str], produced: str = "produced") -> Outcome:
    """What the training said and wrote before it ended."""
    if not steps_said(done):
        raise RuntimeError(done.stderr[-3000:])
    end = None
    with contextlib.suppress(ValueError, IndexError):
        end = json.loads(done.stdout.splitlines()[-1])["end"]
    rows = [record for record in records(folder / produced / "run.jsonl") if record["type"] == "metrics"]
    return Outcome(
        steps=max(steps_said(done)),
        waits=waits_said(done),
        end=end,
        produced={(key, row["step"]) for row in rows for key in row["metrics"]},
    )
