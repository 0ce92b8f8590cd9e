"""Whole lines from any position, however the file came to be as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.journal.reader import FileLines, JournalLines, MemoryLines, entry_of, read, read_all
from rldk_tracking.trackers.lines import dumps, row_record

WHOLE = [(dumps(row_record(step, {"a": float(step)}, [], 1.0)) + "\n").encode() for step in range(5)]


def steps(path: Path, position: int = 0) -> list[int]:
    return [entry.record["step"] for entry in read_all(FileLines(path), position) if entry.record]


def test_lines_that_are_none_are_passed_over_and_described(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    bad = [b"\x00\xff\xfe\x00\n", b'{"type": "metrics", "ti\n', b"\n", b'{"type": "dance", "time": 1}\n', b"a\rb\n"]
    lines = [WHOLE[0], bad[0], WHOLE[1], bad[1], bad[2], WHOLE[2], bad[3], bad[4], WHOLE[3]]
    path.write_bytes(b"".join(lines))
    entries = list(read_all(FileLines(path)))
    assert [entry.record["step"] for entry in entries if entry.record] == [0, 1, 2, 3]
    assert [entry.start for entry in entries] == [sum(map(len, lines[:n])) for n in range(len(lines))]
    assert [entry.end for entry in entries] == [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    assert [entry.problem is None for entry in entries] == [True, False, True, False, True, True, False, False, True]


def test_a_torn_end_is_not_read_before_it_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(WHOLE[0] + WHOLE[1][:-5])
    assert steps(path) == [0]
    with path.open("ab") as file:
        file.write(b"\n" + WHOLE[2])
    first, torn, next_one = read_all(FileLines(path))
    assert (first.end, torn.start, torn.problem) == (len(WHOLE[0]), len(WHOLE[0]), "it is not JSON, or torn")
    assert (next_one.start, next_one.end) == (torn.end, path.stat().st_size)
    assert steps(path, next_one.start) == [2]


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 64))
def test_positions_are_those_of_the_file(pieces: list[bytes], chunk: int) -> None:
    data = b"\n".join(pieces) + b"\n"
    lines = MemoryLines()
    from tempfile import TemporaryDirectory
    from unittest.mock import patch

    with TemporaryDirectory() as folder, patch("rldk_tracking.journal.reader._CHUNK_BYTES", chunk):
        path = Path(folder) / "f"
        path.write_bytes(data)
        entries = list(read_all(FileLines(path)))
    assert b"".join(data[entry.start : entry.end] for entry in entries) == data
    assert [data[entry.start : entry.end] for entry in entries] == [piece + b"\n" for piece in data.split(b"\n")[:-1]]
    assert lines.size == 0


def test_a_position_within_a_line_or_behind_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(WHOLE[0] + WHOLE[1])
    lines, first = FileLines(path), len(WHOLE[0])
    assert [lines.aligned(position) for position in (0, first, first + 1, 10**9)] == [
        0,
        first,
        first,
        path.stat().st_size,
    ]
    path.write_bytes(WHOLE[0] + WHOLE[1][:-3])
    assert FileLines(path).aligned(10**9) == first, "a file that lost its end is gone on with at its last whole line"


def test_a_file_that_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run.jsonl"
    path.parent.mkdir()
    path.write_bytes(WHOLE[0] + WHOLE[1])
    lines = FileLines(path)
    assert len(list(read(lines))) == 2
    assert not lines.replaced()
    shutil.rmtree(path.parent)
    assert not lines.replaced(), "there is nothing yet to go on with"
    path.parent.mkdir()
    path.write_bytes(WHOLE[2])
    assert [entry.record["step"] for entry in read(lines, len(WHOLE[0]))] == [1], "first what there was"
    assert lines.replaced()
    assert [entry.record["step"] for entry in read(lines)] == [2]


def test_no_file_yet(tmp_path: Path) -> None:
    lines = FileLines(tmp_path / "none")
    assert list(read(lines)) == []
    assert lines.aligned(7) == 0


def test_a_line_longer_than_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    long = dumps({"type": "figure", "time": 1.0, "key": "k", "step": 1, "svg": "x" * 3_000_000}).encode() + b"\n"
    path.write_bytes(WHOLE[0] + long + WHOLE[1])
    assert steps(path) == [0, 1, 1]
    path.write_bytes(WHOLE[0] + b"x" * 70_000_000 + b"\n" + WHOLE[1])
    assert steps(path) == [0, 1], "one that is longer than any of ours is passed over"


def test_lines_in_memory(tmp_path: Path) -> None:
    memory = MemoryLines(most=3)
    lines = JournalLines(tmp_path / "run.jsonl", lambda: memory)
    for line in WHOLE:
        memory.append(line)
    entries = list(read_all(lines))
    assert [entry.record["step"] for entry in entries] == [2, 3, 4]
    assert entries[-1].end == memory.size == sum(map(len, WHOLE))
    assert list(read_all(lines, memory.size)) == []
    assert not lines.replaced()


def test_lines_in_memory_come_behind_those_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(WHOLE[0] + WHOLE[1])
    size = path.stat().st_size
    memory: MemoryLines | None = None
    lines = JournalLines(path, lambda: memory)
    assert [entry.record["step"] for entry in read_all(lines)] == [0, 1]
    memory = MemoryLines(begin=size)
    memory.append(WHOLE[2])
    assert [entry.record["step"] for entry in read_all(lines)] == [0, 1, 2]
    path.write_bytes(WHOLE[0] + WHOLE[1] + WHOLE[2])  # where it lies too by now
    assert [entry.record["step"] for entry in read_all(lines)] == [0, 1, 2]
    assert [lines.aligned(position) for position in (1, size, 10**9)] == [0, size, memory.size]


def test_an_entry() -> None:
    entry = entry_of(10, WHOLE[1])
    assert (entry.start, entry.end, entry.calls) == (10, 10 + len(WHOLE[1]), [("log", ({"a": 1.0}, 1))])
