"""Starting the trainings of `training.py`, and finding the couriers that they start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


class Running:
    """A training in a process of its own, or in several.

    Args:
        world_size: ranks.
        options: of `training.main`.

    Attributes:
        process: the training, or torchrun.
    """

    def __init__(self, world_size: int = 1, **options: Any) -> None:
        # With W&B's service of its own: in ours, which it would find by this variable, its run would outlive a kill.
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        environment |= {"PYTHONPATH": str(ROOT)}
        alone = world_size == 1
        ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world_size}"]
        script = str(ROOT / "tests" / "faults" / "training.py")
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the training is over
        self.process = subprocess.Popen(
            [sys.executable, *([] if alone else ranks), script, json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            cwd=options["folder"],
        )
        self._lines: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    @property
    def step(self) -> int:
        """The last step that it said was over; 0 before that."""
        return max(steps_in(self._lines), default=0)

    def wait_for_step(self, step: int, timeout_s: float = 200) -> None:
        """Wait until a step is over. Raises RuntimeError where the training ends before that, or takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.step < step:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the training did not come to step {step}: {self._said_on_stderr()[-3000:]}")
            time.sleep(0.01)

    def rank(self, number: int) -> psutil.Process:
        """The process of a rank, which torchrun started."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return next(
            one for one in found if one.environ().get("RANK") == str(number) and "training.py" in one.cmdline()[-2]
        )

    def finish(self, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        """Wait for its end, whatever that is. Raises TimeoutExpired."""
        try:
            self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.send_signal(signal.SIGCONT)
                self.process.kill()
        self._listening.join(10)
        output, errors = "".join(self._lines), self._said_on_stderr()
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, output, errors)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)

    def _said_on_stderr(self) -> str:
        self._errors.seek(0)
        return self._errors.read()


def start(world_size: int = 1, timeout_s: float = 200, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a training to its end, whatever that is."""
    return Running(world_size, **options).finish(timeout_s)


def steps_in(lines: list[str]) -> list[int]:
    """The steps that lines say were over."""
    return [int(line.split()[1]) for line in [*lines] if line.startswith("step ")]


def steps_said(done: subprocess.CompletedProcess[str]) -> list[int]:
    """The steps that the training said were over."""
    return steps_in(done.stdout.splitlines())


def waits_said(done: subprocess.CompletedProcess[str]) -> dict[int, float]:
    """Seconds that steps waited for this package, as the training said."""
    pairs = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("step ")]
    return {int(step) - 1: float(wait) / 1000 for step, wait in pairs if int(step) > 1 and float(wait) > 0}


def couriers(folder: Path) -> list[psutil.Process]:
    """The couriers of the journals in a folder and below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_courier = process.cmdline()[-1:] == ["rldk_tracking.courier"]
            if is_courier and any(Path(file.path).is_relative_to(folder) for file in process.open_files()):
                found.append(process)
    return found


def wait_for(condition: Callable[[], Any], timeout_s: float) -> bool:
    """Ask until it is so. Returns whether it came to that."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
