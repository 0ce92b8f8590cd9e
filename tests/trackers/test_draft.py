"""What is known of a step while its row is computed."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.trackers.draft import Draft, drafts


def line(step: int, size: int = 1) -> bytes:
    return json.dumps({"type": "draft", "step": step, "metrics": {"a": "x" * size}}).encode() + b"\n"


def left(path: Path, after: int = 0) -> list[int]:
    return [record["step"] for record in drafts(path, after)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_like_a_queue(tmp_path_factory: pytest.TempPathFactory, doings: list[tuple[bool, int]]) -> None:
    """What is left is every step that is held, and perhaps older ones that the spool has."""
    path = tmp_path_factory.mktemp("draft") / "a.draft"
    draft, model, step = Draft(path), list[int](), 0
    for holds, size in doings:
        if holds:
            step += 1
            draft.hold(line(step, size))
            model.append(step)
        else:
            draft.let_go()
            model = model[1:]
        stored = (model[0] if model else step + 1) - 1
        assert left(path, stored) == model
    draft.close()
    assert not path.exists()


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "a.draft")
    draft.hold(line(1))
    assert stat.S_IMODE(draft.path.stat().st_mode) == 0o600
    draft.close()


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "a.draft").symlink_to(target)
    draft = Draft(tmp_path / "a.draft")
    draft.hold(line(1))
    assert target.read_text() == "precious"
    assert left(draft.path) == [1]


def test_torn_and_strange_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.draft"
    path.write_bytes(line(4) + line(3) + line(4) + b'{"type": "draft"}\n[1]\n\xff\n' + line(5)[:-9])
    assert left(path) == [3, 4]
    assert left(path, after=3) == [4]
    assert left(tmp_path / "none.draft") == []


def test_another_thread_lets_go_meanwhile(tmp_path: Path) -> None:
    draft, gone = Draft(tmp_path / "a.draft"), threading.Event()

    def let_go() -> None:
        while not gone.is_set():
            draft.let_go()

    thread = threading.Thread(target=let_go)
    thread.start()
    try:
        for step in range(2000):
            draft.hold(line(step))
            assert left(draft.path, step - 1) == [step]
    finally:
        gone.set()
        thread.join()


def test_it_costs_little(tmp_path: Path) -> None:
    """It is written while the training waits."""
    draft, seconds = Draft(tmp_path / "a.draft"), []
    for step in range(500):
        begin = time.perf_counter()
        draft.hold(line(step, 1000))
        seconds.append(time.perf_counter() - begin)
        draft.let_go()
    assert sorted(seconds)[len(seconds) // 2] < 1e-3


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_a_full_disk_is_the_callers_to_tell(tmp_path: Path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    draft = Draft(tmp_path / "a.draft")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
        draft.hold(line(1, 100))
        with pytest.raises(OSError, match="File too large"):
            draft.hold(line(2, 10_000))
        draft.let_go()
        draft.let_go()
        draft.hold(line(3))
        assert left(draft.path) == [3]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_the_file_stays_small_while_a_step_is_always_under_way(tmp_path: Path) -> None:
    draft, sizes = Draft(tmp_path / "a.draft"), []
    for step in range(1000):
        draft.hold(line(step, 500))
        if step > 1:
            draft.let_go()
            assert left(draft.path, step - 2) == [step - 1, step]
        sizes.append(draft.path.stat().st_size)
    assert 1000 < max(sizes) < 70_000


WRITER = """
import sys
from pathlib import Path
from rldk_tracking.trackers.draft import Draft
draft, step, size = Draft(Path(sys.argv[1])), 0, 0
while True:
    step += 1
    size = step * 997 % 9000
    draft.hold(('{"type": "draft", "step": %d, "metrics": {"a": "%s"}}' % (step, "x" * size)).encode() + b"\\n")
    print(step, flush=True)
    if step % 7 == 0:
        for _ in range(7):
            draft.let_go()
"""


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.25, 0.3])
def test_a_process_that_is_killed_leaves_every_step_under_way(tmp_path: Path, seconds: float) -> None:
    path, said = tmp_path / "a.draft", tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=out, env=os.environ)
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        process.wait()
    held = len(said.read_text().splitlines())
    assert held > 7
    under_way = list(range(held // 7 * 7 + 1, held + 1))
    assert [step for step in left(path) if held // 7 * 7 < step <= held] == under_way
