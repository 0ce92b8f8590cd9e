"""What a training survives: `python -m tests.faults.table [--markdown] [--steps 200] [NAME ...]`.

Each line is a real GRPO training of the tiny model whose tracker, disk, courier or process is broken while it runs. A
wait is the time that a step waited for this package. Lost and doubled are counted in MLflow's store, without
`rldk-tracking sync` where the line does not say otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(
    {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
)

from tests.faults.bench import Bench, Line
from tests.faults.broken_disks import full_disk, full_store, locked_store, read_only
from tests.faults.broken_processes import (
    away,
    courier_killed,
    ended,
    killed_while_down,
    killed_with_a_full_store,
    killed_with_its_courier,
    resumed,
)
from tests.faults.shared_folders import interrupted_kernel, two_trainings
from tests.faults.stopped_processes import SOON, rank_stopped, stopped

FAULTS: dict[str, tuple[str, Callable[[Bench, str], Line | None]]] = {
    "none": ("no fault", lambda b, fault: b.answers(fault)),
    "away": ("server away from before the start to after the end, back later", away),
    "middle": (
        "server killed, back later",
        lambda b, fault: b.during(fault, lambda: b.server.kill(), b.restart, direct=True),
    ),
    "stop": (
        "server hangs (SIGSTOP)",
        lambda b, fault: b.during(
            fault, lambda: b.server.signal(signal.SIGSTOP), lambda: b.server.signal(signal.SIGCONT), direct=True
        ),
    ),
    "500": ("server answers 500", lambda b, fault: b.answers(fault, 500)),
    "429": ("server answers 429", lambda b, fault: b.answers(fault, 429)),
    "403": ("server answers 403", lambda b, fault: b.answers(fault, 403)),
    "slow": ("server takes 2 s a call", lambda b, fault: b.answers(fault, delay=2.0)),
    "locked": ("MLflow's sqlite file locked", locked_store),
    "full-store": ("disk of MLflow's sqlite full", full_store),
    "full-disk": ("local disk full", full_disk),
    "full-disk-down": ("local disk full while the server is down", lambda b, fault: full_disk(b, fault, down=True)),
    "read-only": ("read-only folder", read_only),
    "kill": ("SIGKILL", lambda b, fault: ended(b, fault, "kill")),
    "kill-middle": ("SIGKILL in the middle of a step", lambda b, fault: ended(b, fault, "kill", middle=True)),
    "kill-down": ("SIGKILL while the server is down, back later", killed_while_down),
    "kill-full": ("SIGKILL while the store is full, freed later", killed_with_a_full_store),
    "kill-both": ("SIGKILL of trainer and courier together, then `sync`", killed_with_its_courier),
    "term": ("SIGTERM", lambda b, fault: ended(b, fault, "term")),
    "term-middle": ("SIGTERM in the middle of a step", lambda b, fault: ended(b, fault, "term", middle=True)),
    "interrupt": ("Ctrl-C", lambda b, fault: ended(b, fault, "interrupt")),
    "exception": ("an exception in the trainer", lambda b, fault: ended(b, fault, "exception")),
    "memory": ("out of memory", lambda b, fault: ended(b, fault, "memory")),
    "resume": ("SIGKILL, then resumed from a checkpoint", resumed),
    "rank": ("one of two ranks fails", lambda b, fault: ended(b, fault, "exception", world_size=2)),
    "stopped": ("trainer stopped by SIGSTOP, then goes on", lambda b, fault: stopped(b, fault, overrides=SOON)),
    "stopped-long": ("trainer stopped by SIGSTOP for 5 minutes", lambda b, fault: stopped(b, fault, 300.0)),
    "rank-stopped": ("one of two ranks stopped, then goes on", rank_stopped),
    "courier": ("courier killed in mid-run, twice", courier_killed),
    "kernel": ("notebook kernel interrupted, then another training", interrupted_kernel),
    "folder": ("two trainings into one folder at once, then a third", two_trainings),
}
"""Name to what the table calls it and what makes its line: None where this machine cannot."""

ON_REQUEST = {"stopped-long"}
"""Lines that take minutes: made where they are named."""

COLUMNS = {
    "fault": "fault",
    "steps": "steps",
    "produced": "rows produced",
    "stored": "stored",
    "lost": "lost",
    "doubled": "doubled",
    "median": "median wait of a step, ms",
    "longest": "longest, ms",
    "end": "end, s",
}


def shown(lines: list[Line], markdown: bool) -> str:
    """The table as text or as markdown."""
    table = [tuple(COLUMNS.values()), *(tuple(_cell(getattr(line, name)) for name in COLUMNS) for line in lines)]
    if markdown:
        rows = ["| " + " | ".join(row) + " |" for row in table]
        return "\n".join([rows[0], "|---" + "|---:" * (len(COLUMNS) - 1) + "|", *rows[1:]])
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def measure(names: list[str], steps: int, place: Path) -> list[Line]:
    """The lines of these faults; says on stderr how far it is, and which promise was not kept."""
    bench, lines = Bench(place, steps), []
    try:
        for name in names:
            begin = time.monotonic()
            fault, make = FAULTS[name]
            line = make(bench, fault)
            note = "cannot be made on this machine" if line is None else f"lost {line.lost}, doubled {line.doubled}"
            broken = "" if line is None or not line.broken else f"; NOT SO: {', '.join(line.broken)}"
            print(f"{name}: {note}{broken} ({time.monotonic() - begin:.0f} s)", file=sys.stderr, flush=True)
            lines += [] if line is None else [line]
    finally:
        bench.close()
    return lines


def main(argv: list[str]) -> int:
    """Print the table. Returns 1 where something was lost or doubled, or a promise of a line was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *FAULTS], help="which faults; all without a name")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args(argv)
    os.environ["RLDK_SILENT"] = "1"
    place = Path(tempfile.mkdtemp(prefix="rldk-faults-"))
    names = arguments.names or [name for name in FAULTS if name not in ON_REQUEST]
    try:
        lines = measure(names, arguments.steps, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(shown(lines, arguments.markdown))
    return int(any(line.lost or line.doubled or line.broken for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
