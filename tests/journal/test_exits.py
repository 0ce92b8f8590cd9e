"""Runs that nobody closed, when the process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from rldk_tracking.journal.exits import last_exception

LEFT_OPEN = """
import os, sys
from rldk_tracking.journal.publisher import Publisher
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.memory import InMemoryTracker


class Saying(InMemoryTracker):
    def status(self, status, metrics, step):
        sys.stdout.write(f"{status} {step} {os.getpid() == parent}\\n")
        sys.stdout.flush()


parent = os.getpid()
publisher = Publisher()
publisher.open([], RunInfo(), [Saying()], None)
publisher.row(5, {"a": 1.0}, [])
if hasattr(os, "fork") and os.fork() == 0:
    sys.exit()
if hasattr(os, "fork"):
    os.wait()
"""


def said_at_exit(end: str) -> list[str]:
    command = [sys.executable, "-c", LEFT_OPEN + end]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ).stdout.splitlines()


def test_what_nobody_closed_is_said_at_exit_to_have_crashed_and_not_by_a_forked_child() -> None:
    assert said_at_exit("del publisher") == ["running 0 True", "crashed 5 True"]
    assert said_at_exit("raise RuntimeError('out of memory')") == ["running 0 True", "crashed 5 True"]
    assert said_at_exit("publisher.close('finished')") == ["running 0 True", "finished 5 True"]


def test_the_exception_that_ends_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "last_value", raising=False)
    assert last_exception() is None
    try:
        raise ValueError("the reward is no number")
    except ValueError as error:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
    lines: Any = last_exception()
    assert lines.splitlines()[-1] == "ValueError: the reward is no number" and len(lines.splitlines()) <= 5
