"""Lines of the table in which a process does not end, but stands still for a while."""

from __future__ import annotations

import signal
from typing import Any

import psutil

from tests.faults.bench import Bench, Line
from tests.faults.broken_processes import SECONDS, outcome_of, place_of
from tests.faults.channel import Channel
from tests.faults.processes import Running, wait_for

SOON = {"run.hung": {"threshold": 5.0, "first": 60.0, "critical": 100.0}}
"""A training is taken for hung after 5 s, not after two minutes; the toy's steps last a tenth of a second."""
TOLD = ["rldk warning: run.hung", "rldk resolved: run.hung"]
TOLD_LONG = ["rldk warning: run.hung", "rldk critical: run.hung", "rldk resolved: run.hung"]
"""Of 5 minutes with the rule as it is: it warns after two, and is critical after four."""


def stopped(bench: Bench, fault: str, seconds: float = 0.0, **options: Any) -> Line:
    """The trainer, half-way: until people were told of it, or for so many seconds."""
    folder, run_id = bench.new()
    channel = bench.channel()
    options = {**place_of(bench, folder, run_id), "slack_url": channel.url, "steps": bench.steps, **options}
    training = Running(**options)
    training.wait_for_step(bench.steps // 2)
    stop(psutil.Process(training.process.pid), channel, seconds)
    outcome = outcome_of(folder, training.finish(SECONDS))
    outcome.waits = {}
    return bench.line(
        fault,
        outcome,
        folder,
        run_id,
        promises=lambda: {
            f"it is told that it hangs, and that it goes on ({channel.titles('run.hung')})": (
                channel.titles("run.hung") == (TOLD_LONG if seconds else TOLD)
            ),
            "the status is finished": bench.tags(run_id).get("rldk.status") == "finished",
        },
    )


def rank_stopped(bench: Bench, fault: str) -> Line:
    """The second of two ranks."""
    folder, run_id = bench.new()
    channel = bench.channel()
    options = {**place_of(bench, folder, run_id), "slack_url": channel.url, "steps": bench.steps, "overrides": SOON}
    training = Running(2, **options)
    training.wait_for_step(bench.steps // 2)
    stop(training.rank(1), channel)
    outcome = outcome_of(folder, training.finish(SECONDS))
    outcome.waits = {}
    return bench.line(
        fault,
        outcome,
        folder,
        run_id,
        promises=lambda: {
            f"it is told that it hangs, and that it goes on ({channel.titles('run.hung')})": (
                channel.titles("run.hung") == TOLD
            ),
            f"the message names rank 1, and not rank 0 ({channel.texts('run.hung')[:1]})": (
                is_named(channel.texts("run.hung")[:1])
            ),
        },
    )


def is_named(texts: list[str]) -> bool:
    """Whether a message says that rank 1 did not arrive."""
    return any("rank 1" in text and "rank 0" not in text for text in texts)


def stop(process: psutil.Process, channel: Channel, seconds: float = 0.0) -> None:
    """Let a process stand until the channel knows of it, or for so many seconds."""
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: not seconds and channel.titles("run.hung"), seconds or 60.0)
    process.send_signal(signal.SIGCONT)
