"""Lines of the table in which several trainings write into one folder, or run in one process after another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from tests.faults.bench import Bench, Line, destinations, journals
from tests.faults.broken_processes import SECONDS, outcome_of, place_of
from tests.faults.processes import ROOT, Running, wait_for
from tests.faults.scenario import Outcome


def two_trainings(bench: Bench, fault: str) -> Line:
    """Two at once into one folder, and a third when they are over."""
    shared = bench.folder()
    runs = [bench.client.create_run("0").info.run_id for _ in range(3)]
    done = []
    for batch in (runs[:2], runs[2:]):
        running = []
        for run_id in batch:
            (shared / run_id).mkdir()
            place = place_of(bench, shared / run_id, run_id)
            running.append(Running(**place, steps=bench.steps, output_dir=str(shared / "journals")))
        done += [training.finish(SECONDS) for training in running]
    lines = [
        bench.line(fault, outcome_of(shared / run_id, one), shared, run_id)
        for run_id, one in zip(runs, done, strict=True)
    ]
    to = sorted(record["to"]["run_id"] for path in journals(shared) for record in destinations(path).values())
    return summed(lines, {"each has a journal of its own": to == sorted(runs) and len(journals(shared)) == 3})


def interrupted_kernel(bench: Bench, fault: str) -> Line:
    """A notebook's kernel is interrupted in a training, and another one is made in the next cell."""
    folders = [bench.folder(), bench.folder()]
    runs = [bench.client.create_run("0").info.run_id for _ in folders]
    notebook = Notebook(folders[0])
    outcomes, errors = [], []
    for folder, run_id, at in zip(folders, runs, (bench.steps // 2, None), strict=True):
        arguments = place_of(bench, folder, run_id) | {"steps": bench.steps}
        said, error = notebook.run(f"from tests.faults.training import main\nmain(**{arguments!r})", at)
        errors.append(error)
        outcomes.append(notebook.outcome(folder, said))
    notebook.close()
    lines = [
        bench.line(fault, outcome, folder, run_id)
        for outcome, folder, run_id in zip(outcomes, folders, runs, strict=True)
    ]
    tags = [bench.tags(run_id).get("rldk.status") for run_id in runs]
    return summed(
        lines,
        {
            "the first cell ends in a KeyboardInterrupt, the second in nothing": errors == ["KeyboardInterrupt", None],
            f"the first is crashed, the second finished ({tags})": tags == ["crashed", "finished"],
        },
    )


def summed(lines: list[Line], promises: dict[str, bool]) -> Line:
    """One line for several trainings."""
    broken = (*(what for line in lines for what in line.broken), *(what for what, kept in promises.items() if not kept))
    counts = {name: sum(getattr(line, name) for line in lines) for name in ("steps", "produced", "stored", "lost")}
    last = lines[-1]
    return Line(
        last.fault,
        **counts,
        doubled=sum(line.doubled for line in lines),
        median=last.median,
        longest=max((line.longest for line in lines if line.longest is not None), default=None),
        end=last.end,
        broken=broken,
    )


class Notebook:
    """A Jupyter kernel, and the cells that are run in it."""

    def __init__(self, folder: Path) -> None:
        self._kernel = KernelManager()
        self._kernel.start_kernel(cwd=str(folder), env=os.environ | {"PYTHONPATH": str(ROOT)})
        self._client = self._kernel.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)

    def run(self, cell: str, interrupted_at: int | None = None) -> tuple[str, str | None]:
        """Run a cell, and interrupt the kernel when the cell says that this step is over.

        Returns:
            What it printed, and the name of the exception that ended it.
        """
        request, said, is_interrupted = self._client.execute(cell), "", False
        while True:
            message: dict[str, Any] = self._client.get_iopub_msg(timeout=SECONDS)
            if message["parent_header"].get("msg_id") != request:
                continue
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                said += content["text"]
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                break
            if interrupted_at is not None and not is_interrupted and f"step {interrupted_at} " in said:
                is_interrupted = True
                self._kernel.interrupt_kernel()
        while True:
            answer: dict[str, Any] = self._client.get_shell_msg(timeout=30)
            if answer["parent_header"].get("msg_id") == request:
                return said, answer["content"].get("ename")

    def outcome(self, folder: Path, said: str) -> Outcome:
        """What a training of a cell did."""
        import subprocess

        return outcome_of(folder, subprocess.CompletedProcess([], 0, said, ""))

    def close(self) -> None:
        """Restarting or closing the notebook ends the kernel, which is asked first."""
        self._client.stop_channels()
        self._kernel.shutdown_kernel()
        wait_for(lambda: not self._kernel.is_alive(), 30)
