"""Where every thread stands: written once, in time, and without harm to what goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rldk_tracking.journal import stacks
from rldk_tracking.journal.beats import beat_of
from rldk_tracking.journal.stacks import (
    CHECK_S,
    PlannedDump,
    StacksWriter,
    append_stacks,
    main_thread,
    read_stacks,
    stacks_of,
)
from tests.journal.test_beats import RECORD

pytestmark = pytest.mark.slow


def planned(due_s: float, events: int = 1) -> PlannedDump:
    now = time.monotonic()
    return PlannedDump(now + due_s, now, events, "phase reward of step 3")


def waits_for_a_judge(until: threading.Event, inside: threading.Event) -> None:
    inside.set()
    until.wait(20)


def within(seconds: float, path: Path) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text().endswith("\n\n"):
            return path.read_text()
        time.sleep(0.05)
    return ""


@pytest.fixture
def waiting_thread():
    until, inside = threading.Event(), threading.Event()
    thread = threading.Thread(target=waits_for_a_judge, args=(until, inside), name="judge")
    thread.start()
    inside.wait(5)
    yield thread
    until.set()
    thread.join()


@pytest.fixture
def writer(tmp_path: Path):
    """One whose thread has ended when the next test begins."""
    made = StacksWriter(tmp_path / "run.stacks.txt")
    yield made
    made.close()
    for thread in threads():
        thread.join(5)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rldk-stacks"]


def plan(writer: StacksWriter, dump: PlannedDump) -> None:
    writer.planned = dump
    writer.start()


def test_every_thread_but_the_writer_is_there_with_the_main_thread_first(waiting_thread) -> None:
    text = ""

    def write() -> None:
        nonlocal text
        text = stacks_of(planned(0.0, events=42))

    writer = threading.Thread(target=write, name="the writer")
    writer.start()
    writer.join()
    first, *blocks = text.strip().split("\n\n")
    assert first.startswith(f"=== event 42 of process {os.getpid()}: phase reward of step 3, silent for 0 s at ")
    assert blocks[0].startswith("Main thread (innermost frame first):\n  File ")
    assert blocks[0].splitlines()[-1].startswith('  File "')
    assert f'  File "{threading.__file__}"' in blocks[0].splitlines()[1]  # join, where the main thread waits
    (judge,) = [block for block in blocks if block.startswith("Thread judge (")]
    assert "in waits_for_a_judge" in judge
    assert "the writer" not in text


def test_they_are_written_when_due_and_once(tmp_path: Path, writer: StacksWriter) -> None:
    path = tmp_path / "run.stacks.txt"
    plan(writer, planned(0.2))
    assert "=== event 1 of " in within(5, path)
    time.sleep(2.5 * CHECK_S)
    assert path.read_text().count("=== event") == 1
    plan(writer, planned(0.0, events=2))
    end = time.monotonic() + 5
    while path.read_text().count("=== event") < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert "=== event 2 of " in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_goes_on_is_not_written(tmp_path: Path, writer: StacksWriter) -> None:
    for events in range(12):
        plan(writer, planned(2.0, events))
        time.sleep(0.25)
    writer.planned = None
    time.sleep(2 * CHECK_S)
    assert not (tmp_path / "run.stacks.txt").exists()


def test_the_thread_begins_once_and_ends(writer: StacksWriter) -> None:
    assert threads() == []
    plan(writer, planned(60.0))
    writer.start()
    (thread,) = threads()
    assert thread.daemon
    writer.close()
    thread.join(5)
    assert not thread.is_alive()


def test_a_folder_that_is_gone_is_no_fault(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    writer = StacksWriter(gone / "run.stacks.txt")
    gone.rmdir()
    plan(writer, planned(0.0))
    time.sleep(2.5 * CHECK_S)
    gone.mkdir()
    plan(writer, planned(0.0, events=2))
    assert "=== event 2 of " in within(5, gone / "run.stacks.txt")
    writer.close()
    threads()[0].join(5)


def test_a_file_that_has_grown_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "stacks.txt"
    append_stacks(path, "x" * stacks.STACKS_FILE_BYTES)
    append_stacks(path, "y")
    assert path.stat().st_size == stacks.STACKS_FILE_BYTES + 1
    append_stacks(path, "z")
    assert path.read_text() == "z"


def test_a_deep_stack_is_cut() -> None:
    until, inside = threading.Event(), threading.Event()

    def wait(levels: int) -> None:
        if levels:
            wait(levels - 1)
        else:
            inside.set()
            until.wait(5)

    thread = threading.Thread(target=wait, args=(300,), name="deep")
    thread.start()
    inside.wait(5)
    text = stacks_of(planned(0.0))
    until.set()
    thread.join()
    (block,) = [block for block in text.split("\n\n") if block.startswith("Thread deep (")]
    assert len(block.splitlines()) == stacks.FRAMES_PER_THREAD + 2
    assert block.endswith("  ...")


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "pass"])
def test_a_forked_child_ends_while_the_thread_waits(tmp_path: Path, end: str) -> None:
    # With a timer of faulthandler it does not: its end waits for a thread that only its parent has.
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from rldk_tracking.journal.stacks import StacksWriter\n"
        f"StacksWriter(Path({str(tmp_path / 's.txt')!r})).start()\n"
        "pid = os.fork()\n"
        f"if pid == 0:\n    {end}\n"
        "else:\n    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, env=os.environ)
    assert done.returncode == 0


def test_a_process_that_runs_python_survives_thousands_of_readings() -> None:
    # A timer of faulthandler ends this one within some hundred.
    code = (
        "import sys, threading, time\n"
        "from rldk_tracking.journal.stacks import PlannedDump, stacks_of\n"
        "read = 0\n"
        "def reader():\n"
        "    global read\n"
        "    while True:\n"
        "        stacks_of(PlannedDump(0.0, 0.0, 1, '')); read += 1; time.sleep(0.0005)\n"
        "threading.Thread(target=reader, daemon=True).start()\n"
        "sys.setswitchinterval(1e-5)\n"
        "while read < 2000:\n"
        "    [sum(i for i in range(50)) for _ in range(20)]\n"
        "    threading.Thread(target=lambda: None).start()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, env=os.environ).returncode == 0


def test_a_timer_that_the_user_armed_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import faulthandler, sys, time\nfrom pathlib import Path\n"
        "from rldk_tracking.journal.stacks import PlannedDump, StacksWriter\n"
        f"faulthandler.dump_traceback_later(0.75, file=open({str(tmp_path / 'mine.txt')!r}, 'wb'))\n"
        f"writer = StacksWriter(Path({str(tmp_path / 'run.stacks.txt')!r}))\n"
        "writer.planned = PlannedDump(time.monotonic(), 0.0, 1, '')\nwriter.start()\n"
        "time.sleep(1.25)\nwriter.close()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, env=os.environ).returncode == 0
    assert "most recent call first" in (tmp_path / "mine.txt").read_text()
    assert "=== event 1 of process " in (tmp_path / "run.stacks.txt").read_text()


def test_where_the_training_is_over_the_thread_ends_by_itself(tmp_path: Path) -> None:
    over: list[bool] = []
    writer = StacksWriter(tmp_path / "run.stacks.txt", lambda: bool(over))
    plan(writer, planned(60.0))
    (thread,) = threads()
    time.sleep(1.5 * CHECK_S)
    assert thread.is_alive()
    over.append(True)
    thread.join(5)
    assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []


DUMP = """=== event 8 of process 7: phase step of step 3, silent for 9 s at 2026-01-01 10:00:00

Main thread (innermost frame first):
  File "a.py", line 1 in old

=== event 9 of process 7: phase reward of step 3, silent for 9 s at 2026-01-01 10:00:00

Main thread (innermost frame first):
  File "/judge.py", line 7 in ask
  File "/trl/grpo_trainer.py", line 99 in _calculate_rewards
  File "/transformers/trainer.py", line 12 in train

Thread tqdm (innermost frame first):
  File "/tqdm.py", line 3 in wait

"""


def test_the_stacks_of_this_silence_only(tmp_path: Path) -> None:
    path = tmp_path / "run.stacks.txt"
    beat = beat_of(json.dumps({**RECORD, "events": 9, "stacks": f"../{tmp_path.name}/run.stacks.txt"}))
    assert beat is not None
    assert read_stacks(tmp_path, beat) is None
    path.write_text(DUMP)
    found = read_stacks(tmp_path, beat)
    assert found is not None and "ask" in found and "old" not in found
    assert read_stacks(tmp_path, replace(beat, events=10)) is None
    assert read_stacks(tmp_path, replace(beat, pid=70)) is None, "of an earlier training with as many events"
    path.write_text(DUMP.replace("ask", "before") + DUMP)
    assert read_stacks(tmp_path, beat) == found, "the last one"
    path.write_text("x" * stacks.STACKS_BYTES + "\n" + DUMP)
    assert read_stacks(tmp_path, beat) == found
    path.write_text(DUMP + "x" * stacks.STACKS_BYTES)
    assert read_stacks(tmp_path, beat) is None, "a file of any size is not read whole"


def test_the_stacks_lie_in_the_folder_whatever_the_beat_says(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text(DUMP)
    (tmp_path / "run").mkdir()
    beat = beat_of(json.dumps({**RECORD, "events": 9, "stacks": str(tmp_path / "elsewhere.txt")}))
    assert beat is not None and read_stacks(tmp_path / "run", beat) is None
    assert read_stacks(tmp_path, beat) is not None


def test_the_innermost_frames_as_many_as_fit() -> None:
    found = DUMP.split("=== event 9")[1]
    first, second = 'File "/judge.py", line 7 in ask', 'File "/trl/grpo_trainer.py", line 99 in _calculate_rewards'
    third = 'File "/transformers/trainer.py", line 12 in train'
    assert main_thread(found, 1000) == f"{first}\n{second}\n{third}"
    assert main_thread(found, 100) == f"{first}\n{second}"
    assert main_thread(found, 10) == "" and main_thread("no dump", 100) == ""
