from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.trackers import spool as module
from rldk_tracking.trackers.spool import Spool


def row(step: int, size: int = 10) -> dict[str, Any]:
    return {"type": "metrics", "step": step, "metrics": {"a": "x" * size}}


def waiting(spool: Spool) -> list[int]:
    return [record["step"] for record, _ in spool.read(spool.first) if record["type"] != "address"]


def draft(step: int) -> dict[str, Any]:
    return row(step) | {"type": "draft"}


def left_behind(spool: Spool) -> None:
    """As a process that is killed leaves it: unlocked."""
    descriptor = spool._descriptor
    assert descriptor is not None
    os.close(descriptor)
    spool._descriptor = None


def test_what_is_not_taken_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "spool.jsonl"
    spool = Spool(path, "mlflow")
    spool.note({"run_id": "abc"}, step=3)
    ends = [spool.append([row(step)]) for step in range(4)]
    spool.trying(ends[2])
    spool.taken(ends[1])
    assert spool.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = Spool.reopen(path)
    assert (again.head.tracker, again.head.to, again.head.step) == ("mlflow", {"run_id": "abc"}, 3)
    records = list(again.read(again.first))
    assert [record["step"] for record, _ in records] == [2, 3]
    assert [position <= again.head.trying for _, position in records] == [True, False]
    again.taken(records[-1][1])
    assert not again.close()
    assert not path.exists()


def test_a_step_whose_row_was_being_computed_is_there_as_it_was_known(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path, "mlflow")
    for step in range(1, 4):
        spool.append([row(step)])
        spool.hold(draft(step))
        spool.let_go()
    spool.hold(draft(4))
    spool.hold(draft(5))
    left_behind(spool)
    again = Spool.reopen(path)
    records = [record for record, _ in again.read(again.first)]
    assert [(record["step"], record.get("draft", False)) for record in records] == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
        (5, True),
    ]
    assert not path.with_suffix(".draft").exists()
    assert again.close()
    assert waiting(Spool.reopen(path)) == [1, 2, 3, 4, 5], "and not a second time"


def test_a_step_that_was_taken_is_known_by_the_first_line_alone(tmp_path: Path) -> None:
    """Its row is gone from the file, and its draft may not have been replaced yet."""
    path = tmp_path / "spool.jsonl"
    spool = Spool(path, "mlflow")
    spool.hold(draft(7))
    spool.note(step=7)
    end = spool.append([row(7, size=module._CUT_BACK)])
    spool.hold(draft(7))
    spool.taken(end)
    assert path.stat().st_size < 1000
    left_behind(spool)
    again = Spool.reopen(path)
    assert waiting(again) == []
    assert not again.close()


def test_a_training_that_ends_leaves_no_draft(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    spool.append([row(1)])
    spool.hold(draft(2))
    assert spool.close()
    assert [path.name for path in tmp_path.iterdir()] == ["spool.jsonl"]


def test_a_draft_whose_spool_was_removed_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "spool.draft").write_text(json.dumps(draft(9)))
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    spool.hold(draft(1))
    left_behind(spool)
    assert waiting(Spool.reopen(spool.path)) == [1]


def test_every_line_is_json(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    spool.note({"run_id": "abc"})
    spool.append([row(1), row(2)])
    spool.close()
    lines = [json.loads(line) for line in spool.path.read_text().splitlines()]
    assert [line["type"] for line in lines] == ["spool", "address", "metrics", "metrics"]


def test_two_trainings_with_one_folder_keep_apart(tmp_path: Path) -> None:
    one, two = (Spool(tmp_path / "spool.jsonl", "mlflow") for _ in range(2))
    one.append([row(1)])
    two.append([row(2)])
    assert (one.path.name, two.path.name) == ("spool.jsonl", "spool-2.jsonl")
    with pytest.raises(BlockingIOError):
        Spool.reopen(one.path)
    assert waiting(one) == [1]
    assert waiting(two) == [2]
    one.close()
    two.close()


def test_half_a_line_costs_only_itself(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    spool.append([row(1)])
    spool.close()
    with spool.path.open("ab") as file:
        file.write(b'{"type": "metr\xff')
    again = Spool.reopen(spool.path)
    again.append([row(3)])
    assert waiting(again) == [1, 3]
    again.close()


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\xfe", b'{"type": "metrics"}\n'])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a file of calls"):
        Spool.reopen(path)
    assert path.read_bytes() == content


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["append", "take", "reopen", "address"]), st.integers(1, 9)), max_size=60))
def test_like_a_list(steps: list[tuple[str, int]]) -> None:
    """Whatever is done to it, and however often the file is cut back, what waits is what a list would hold."""
    oracle: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CUT_BACK", 600)
        patch.setattr(module, "_COMPACT", 900)
        spool, number = Spool(Path(folder) / "spool.jsonl", "mlflow"), 0
        spool.append([row(-1)])
        oracle.append((-1, spool.end))
        for what, count in steps:
            if what == "append":
                for _ in range(count):
                    oracle.append((number, spool.append([row(number, size=30 * count)])))
                    number += 1
            elif what == "take" and oracle:
                done = oracle[:count]
                spool.trying(done[-1][1])
                spool.taken(done[-1][1])
                oracle = oracle[count:]
            elif what == "address":
                spool.note({"run_id": str(number)})
            elif what == "reopen" and oracle:
                to = spool.head.to
                assert spool.close()
                spool = Spool.reopen(spool.path)
                assert spool.head.to == to
                ends = [position for record, position in spool.read(spool.first) if "step" in record]
                oracle = [(n, end) for (n, _), end in zip(oracle, ends, strict=True)]
            assert waiting(spool) == [n for n, _ in oracle]
        assert spool.path.stat().st_size < 900 + 600 + 2 * sum(400 for _ in oracle) + 3000
        spool.close()
        assert sorted(os.listdir(folder)) == (["spool.jsonl"] if oracle else [])


def test_the_file_stays_small_while_the_tracker_keeps_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    largest = 0
    for step in range(3000):
        spool.taken(spool.append([row(step, size=1000)]))
        largest = max(largest, spool.path.stat().st_size)
    assert largest < 300 * 1024
    spool.close()


def test_the_file_stays_small_while_the_tracker_is_always_a_little_behind(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    spool.note({"run_id": "abc"})
    ends = [spool.append([row(-1, size=4000)])]
    for step in range(6000):
        ends.append(spool.append([row(step, size=4000)]))
        spool.taken(ends.pop(0))
    assert spool.path.stat().st_size < 17 * 1024 * 1024
    assert waiting(spool) == [5999]
    assert spool.head.to == {"run_id": "abc"}
    spool.close()


def test_a_row_costs_little(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", "mlflow")
    record = {"type": "metrics", "step": 1, "metrics": {f"rldk/group/key_{i}": i / 7 for i in range(100)}}
    seconds = []
    for _ in range(500):
        before = time.perf_counter()
        position = spool.append([record])
        spool.trying(position)
        spool.taken(position)
        seconds.append(time.perf_counter() - before)
    spool.close()
    assert sorted(seconds)[len(seconds) // 2] < 400e-6


FULL = """
import resource, sys
from rldk_tracking.trackers.spool import Spool
spool = Spool(sys.argv[1], "mlflow")
row = {"type": "metrics", "step": 0, "metrics": {"a": "x" * 300}}
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
stored = 0
for step in range(20):
    try:
        spool.append([row | {"step": step}])
        stored += 1
    except OSError:
        break
spool.close()
print(stored)
"""


def test_a_disk_that_is_full_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    command = [sys.executable, "-c", FULL, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    stored = int(done.stdout)
    assert 5 < stored < 15
    spool = Spool.reopen(path)
    assert waiting(spool) == list(range(stored))
    spool.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


KILLED = """
import os, sys
from rldk_tracking.trackers.spool import Spool
spool = Spool(sys.argv[1], "mlflow")
for step in range(10**9):
    position = spool.append([{"type": "metrics", "step": step, "metrics": {"a": "x" * 2000}}])
    os.write(1, b"%d\\n" % step)
    if step % 3 == 1:
        spool.taken(before)
        os.write(1, b"t%d\\n" % (step - 1))
    before = position
"""


def test_a_process_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    for attempt in range(4):
        path = tmp_path / f"spool-{attempt}.jsonl"
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", KILLED, str(path)], stdout=out, cwd=Path(__file__).parents[2]
            )
        deadline = time.monotonic() + 30
        while (tmp_path / "out").stat().st_size < 500 + 3000 * attempt and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        said = [line for line in (tmp_path / "out").read_text().split("\n")[:-1] if line]
        appended = max(int(line) for line in said if line[0] != "t")
        taken = max(int(line[1:]) for line in said if line[0] == "t")
        spool = Spool.reopen(path)
        left = waiting(spool)
        spool.close()
        # What was said last may be one step behind what was done.
        assert left[-1] in (appended, appended + 1)
        assert left[0] in (taken + 1, taken + 4)
        assert left == list(range(left[0], left[-1] + 1))
