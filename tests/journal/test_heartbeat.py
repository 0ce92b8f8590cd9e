"""A rank's file: what is in it, what a phase may take, and that nothing ever comes out of it."""

from __future__ import annotations

import json
import logging
import os
import random
import statistics
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.journal import heartbeat
from rldk_tracking.journal.beats import Beat, host_name, read_beats
from rldk_tracking.journal.heartbeat import Durations, Heartbeat

RULES = builtin_rules()

FIRST, THRESHOLD = 1800.0, 120.0


def rule(**parameters: float | bool) -> Silence:
    condition = (
        RULES["run.hung"]
        .model_copy(update={"parameters": {**RULES["run.hung"].parameters, "stacks": False, **parameters}})
        .build({})
    )
    assert isinstance(condition, Silence)
    return condition


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands until it is moved: `clock.now += 3`."""
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, time=lambda: 1.7e9 + clock.now)
    monkeypatch.setattr(heartbeat, "time", fake)
    return clock


def read(folder: Path, rank: int = 0) -> Beat:
    (beat,) = read_beats(folder, "run", rank)
    return beat


def test_the_file_says_where_the_rank_is(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    heart = Heartbeat(folder, "run", 3, 8, rule())
    assert heart.beat("starting") == "starting"
    assert heart.beat("step", 4) == "starting"
    assert heart.beat("sampling") == "step"
    (path,) = folder.iterdir()
    assert path.name == f"run.beat-3@{host_name()}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    beat = read(folder, 3)
    assert (beat.step, beat.phase, beat.events, beat.rank, beat.ranks) == (4, "sampling", 3, 3, 8)
    assert (beat.pid, beat.host) == (os.getpid(), host_name())
    assert beat.created == pytest.approx(psutil.Process().create_time(), abs=0.01)
    assert beat.began <= beat.time <= time.time() + 0.01
    heart.close()
    assert list(folder.iterdir()) == []


def test_every_beat_is_as_long_as_the_others(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    sizes = set()
    for step in (0, 9, 10**9):
        for phase in ("starting", "step", "evaluation", "ending"):
            heart.beat(phase, step)
            (path,) = tmp_path.iterdir()
            sizes.add(path.stat().st_size)
            assert read(tmp_path).phase == phase and path.read_text().endswith("\n")
    assert len(sizes) == 1


def test_a_host_of_any_name_makes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "host_name", lambda: 'a/b "c" é' + "x" * 50)
    Heartbeat(tmp_path, "run", 0).beat("step", 1)
    assert read(tmp_path).host == 'a/b "c" é' + "x" * 50


def test_what_a_rank_left_on_another_host_goes(tmp_path: Path) -> None:
    for name in ("run.beat-1@old.json", "run.beat-2@old.json", "run.beat-11@old.json", "run-2.beat-1@old.json"):
        (tmp_path / name).write_text("{}")
    heart = Heartbeat(tmp_path, "run", 1)
    heart.beat("step", 1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "run.beat-2@old.json",
        "run.beat-11@old.json",
        "run-2.beat-1@old.json",
        f"run.beat-1@{host_name()}.json",
    }


# What a phase may take.


def test_a_phase_without_history_may_take_long(tmp_path: Path, clock: SimpleNamespace) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    for phase in ("starting", "step", "sampling", "reward", "backward", "saving", "evaluation", "between"):
        heart.beat(phase, 0)
        assert read(tmp_path).limit_s == FIRST, phase
        clock.now += 1
    heart.beat("ending", 0)
    assert read(tmp_path).limit_s is None


def test_the_parts_of_one_step_are_no_history_of_each_other(tmp_path: Path, clock: SimpleNamespace) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    for _ in range(5):  # the first part takes a millisecond, the second compiles
        heart.beat("step", 0)
        clock.now += 0.001
        heart.beat("backward", 0)
        clock.now += 0.001
    heart.beat("step", 0)
    assert read(tmp_path).limit_s == FIRST
    heart.beat("between", 1)
    heart.beat("step", 1)
    assert read(tmp_path).limit_s == THRESHOLD


def test_each_phase_has_its_own_history(tmp_path: Path, clock: SimpleNamespace) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    for step in range(20):
        for phase, seconds in (("step", 1.0), ("sampling", 60.0), ("evaluation", 400.0), ("between", 0.1)):
            heart.beat(phase, step)
            clock.now += seconds
    limits = {}
    for phase in ("step", "sampling", "evaluation", "between"):
        heart.beat(phase, 20)
        limits[phase] = read(tmp_path).limit_s
    assert limits == {
        "step": THRESHOLD,
        "sampling": pytest.approx(600.0),
        "evaluation": pytest.approx(4000.0),
        "between": THRESHOLD,
    }


def test_a_sign_of_life_in_a_phase_ends_nothing(tmp_path: Path, clock: SimpleNamespace) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    heart.beat("evaluation", 5)
    for _ in range(60):
        clock.now += 10
        heart.beat("evaluation", 5)
    assert read(tmp_path).events == 61
    assert read(tmp_path).limit_s == FIRST
    heart.beat("between", 5)
    heart.beat("evaluation", 6)
    assert read(tmp_path).limit_s == pytest.approx(6000.0)  # 10 times the 600 s that all of it took


def test_without_the_rule_there_is_no_limit(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, "run", 0)
    heart.beat("step", 1)
    assert read(tmp_path).limit_s is None


def test_the_rules_numbers_are_taken(tmp_path: Path, clock: SimpleNamespace) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule(threshold=2.0, times=3.0, first=7.0))
    limits = []
    for step in range(3):
        heart.beat("step", step)
        limits.append(read(tmp_path).limit_s)
        clock.now += 1.5
        heart.beat("between", step)
    assert limits == [7.0, 4.5, 4.5]


def test_the_threshold_is_the_least_also_of_a_phase_without_history(tmp_path: Path, clock: SimpleNamespace) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule(first=1.0))
    heart.beat("step", 0)
    assert read(tmp_path).limit_s == THRESHOLD


def test_what_took_long_once_may_take_twice_as_long_again(tmp_path: Path, clock: SimpleNamespace) -> None:
    """It happens once in hundreds of steps, so that the 99th percentile does not know of it."""
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    for step in range(300):
        heart.beat("step", step)
        clock.now += 900.0 if step == 7 else 1.0
        heart.beat("between", step)
    heart.beat("step", 300)
    assert read(tmp_path).limit_s == pytest.approx(1800.0)


def test_durations_are_those_of_a_slow_oracle() -> None:
    draw = random.Random(3)
    durations, kept, longest = Durations(), [], 0.0
    for step in range(1500):
        seconds = draw.choice([1.0, 1.0, draw.expovariate(1.0), 300.0 if step == 7 else 2.0])
        durations.add(seconds, step)
        kept.append(seconds)
        longest = max(longest, seconds)
        if step % 50 == 0 or step < 20:
            assert durations.p99() == pytest.approx(np.percentile(kept[-heartbeat.KEPT_DURATIONS :], 99))
            assert durations.longest == longest
    assert durations.first_step == 0


# What it costs, and what it survives.


def test_a_beat_takes_some_microseconds(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    seconds = []
    for step in range(1000):
        for phase in ("step", "sampling", "reward", "backward", "between"):
            begin = time.perf_counter()
            heart.beat(phase, step)
            seconds.append(time.perf_counter() - begin)
    assert statistics.median(seconds) < 30e-6


def test_a_forked_child_does_not_beat(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    heart.beat("step", 1)
    child = os.fork()
    if child == 0:
        heart.beat("reward", 2)
        heart.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (read(tmp_path).phase, read(tmp_path).events) == ("step", 1)
    assert heart.beat("between", 2) == "step"
    assert read(tmp_path).phase == "between"


class Full:
    """`os` with a disk that has no space until it is freed."""

    def __init__(self) -> None:
        self.is_full = True
        self.tries = 0

    def pwrite(self, *args: object) -> int:
        self.tries += 1
        if self.is_full:
            raise OSError(28, "No space left on device")
        return os.pwrite(*args)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def test_a_full_disk_is_said_once_and_tried_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clock: SimpleNamespace
) -> None:
    caplog.set_level(logging.DEBUG)
    disk = Full()
    monkeypatch.setattr(heartbeat, "os", disk)
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    for step in range(100):
        heart.beat("step", step)
        clock.now += 1
    assert len(caplog.records) == 1 and caplog.records[0].levelno == logging.DEBUG
    assert "No space" in caplog.text and disk.tries == 10
    disk.is_full = False
    clock.now += heartbeat.RETRY_S
    heart.beat("step", 200)
    assert read(tmp_path).step == 200


def test_a_folder_that_cannot_be_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    heart = Heartbeat(tmp_path / "file" / "below", "run", 0, 1, rule())
    assert heart.beat("step", 1) == "starting"
    assert heart.beat("between", 1) == "step"
    heart.close()


def test_a_folder_that_goes_is_no_fault(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    heart = Heartbeat(folder, "run", 0, 1, rule())
    heart.beat("step", 1)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    heart.beat("step", 2)
    heart.close()
    assert heart.beat("step", 3) == "step"
    assert not folder.exists()


def test_a_closed_one_is_silent(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path, "run", 0, 1, rule())
    heart.beat("step", 1)
    heart.close()
    heart.close()
    heart.beat("between", 2)
    assert list(tmp_path.iterdir()) == []


# Stacks.


def test_the_stacks_are_there_before_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "run.stacks.txt"

    def train() -> Heartbeat:
        heart = Heartbeat(tmp_path, "run", 0, 1, rule(threshold=1.0, first=2.0, stacks=True))
        heart.beat("reward", 3)
        begin = time.monotonic()
        while not path.exists() and time.monotonic() < begin + 10:
            time.sleep(0.02)
        assert 1.0 <= time.monotonic() - begin < 2.0 + 1.0  # room for a busy machine
        return heart

    heart = train()
    beat = read(tmp_path)
    assert beat.stacks == "run.stacks.txt" and beat.limit_s == 2.0
    assert path.read_text().startswith(f"=== event 1 of process {os.getpid()}: phase reward of step 3, silent for ")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "rldk-stacks"]
    heart.close()
    assert path.exists()
    thread.join(5)
    assert not thread.is_alive()


def test_other_ranks_have_a_file_of_their_own(tmp_path: Path) -> None:
    Heartbeat(tmp_path, "run-2", 5).beat("step", 1)
    (beat,) = read_beats(tmp_path, "run-2")
    assert beat.stacks == f"run-2.stacks-5@{host_name()}.txt"


@pytest.mark.parametrize("silence", [None, rule(stacks=False)], ids=["off", "without stacks"])
def test_no_thread_where_no_stacks_are_wanted(tmp_path: Path, silence: Silence | None) -> None:
    before = set(threading.enumerate())
    Heartbeat(tmp_path, "run", 0, 1, silence).beat("step", 1)
    assert set(threading.enumerate()) == before


def test_no_thread_to_be_had_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    heart = Heartbeat(tmp_path, "run", 0, 1, rule(stacks=True))
    heart.beat("step", 1)
    heart.beat("between", 1)
    assert read(tmp_path).phase == "between"
    assert caplog.text.count("can't start new thread") == 1
    heart.close()


def test_the_constant_part_is_json(tmp_path: Path) -> None:
    Heartbeat(tmp_path, "run", 0, 1, rule()).beat("step", 1)
    (path,) = tmp_path.iterdir()
    assert set(json.loads(path.read_text())) == set(Beat.__dataclass_fields__)
