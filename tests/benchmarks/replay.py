"""How many rows a second of one core a replay reads and judges.

    python tests/benchmarks/replay.py [LOG...] [--rows 10000] [--repeats 3]

Judged are the logs that are named, all together (a folder stands for the files below it that can be read), and a
made-up one: a healthy run in the 28 columns that TRL's GRPO writes. Times are the processor's, those of the fastest of
the repeats, without the imports.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rldk_tracking.history.reading import read
from rldk_tracking.history.replay import replay


def rows_of(count: int) -> Iterator[dict[str, float]]:
    """A healthy run's log: it learns over some thousand steps."""
    draw = random.Random(0).gauss
    for step in range(1, count + 1):
        done, length = 1.0 - math.exp(-step / 2000), draw(1, 0.04)
        task, form = 0.3 + 0.4 * done + draw(0, 0.03), 0.9 + draw(0, 0.02)
        yield {
            "loss": round(draw(0, 0.01), 4),
            "grad_norm": 0.6 * math.exp(draw(0, 0.2)),
            "learning_rate": 1e-6 * (1.0 - 0.8 * step / count),
            "num_tokens": 5000.0 * step,
            **{f"completions/{kind}_length": part * 120 * length for kind, part in (("mean", 1), ("min", 0.3))},
            "completions/max_length": 256.0,
            "completions/clipped_ratio": max(0.0, draw(0.03, 0.01)),
            **{f"completions/{kind}_terminated_length": 110 * length for kind in ("mean", "min", "max")},
            "rewards/task/mean": task,
            "rewards/task/std": draw(0.3, 0.02),
            "rewards/format/mean": form,
            "rewards/format/std": draw(0.1, 0.01),
            "reward": task + form,
            "reward_std": draw(0.3, 0.02),
            "frac_reward_zero_std": max(0.0, draw(0.1, 0.04)),
            "kl": 0.1 * done * math.exp(draw(0, 0.2)) + 1e-4,
            "entropy": 0.8 - 0.3 * done + draw(0, 0.02),
            **{f"clip_ratio/{of}": 0.002 for of in ("low_mean", "low_min", "high_mean", "high_max", "region_mean")},
            "step_time": draw(3.1, 0.05),
            "epoch": round(step / 1000, 3),
            "step": step,
        }


def readable(paths: Iterable[Path]) -> Iterator[Path]:
    """The logs among some files and folders."""
    for path in paths:
        for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
            try:
                read(file)
            except (ValueError, OSError, ImportError):
                continue
            yield file


def measured(logs: list[Path], repeats: int) -> str:
    """Rows a second, in a line."""
    fastest = (math.inf, math.inf, math.inf)
    for _ in range(repeats):
        began = time.process_time()
        histories = [read(log) for log in logs]
        between = time.process_time()
        rows = sum(replay(history).rows for history in histories)
        ended = time.process_time()
        fastest = min(fastest, (ended - began, between - began, ended - between))
    whole, reading, judging = (f"{rows / seconds:,.0f}" for seconds in fastest)
    return f"{rows:,} rows of {len(logs)} logs: reading {reading}, judging {judging}, whole {whole} rows a second"


def main() -> None:
    """Print a line for the logs, and one for the made-up log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    logs = list(readable(arguments.logs))
    if logs:
        print(measured(logs, arguments.repeats))
    with tempfile.TemporaryDirectory() as folder:
        made_up = Path(folder, "log.jsonl")
        made_up.write_text("".join(f"{json.dumps(row)}\n" for row in rows_of(arguments.rows)))
        print(f"made up: {measured([made_up], arguments.repeats)}")


if __name__ == "__main__":
    main()
