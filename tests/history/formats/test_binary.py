"""Files of trackers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.history.formats import binary
from rldk_tracking.history.reading import read
from rldk_tracking.history.run_history import UnreadableSourceError


def test_a_damaged_file_of_wandb_is_said(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="reads W&B's own file")
    path = tmp_path / "some.thing"
    path.write_bytes(b":W&B\xe1\xbe\x00" + binary.HEADER.pack(0, 4, 1) + b"\xff\xff\xff\xff")
    with pytest.raises(UnreadableSourceError, match="some.thing: W&B's own file, but damaged after 0 rows"):
        read(path)


def test_an_event_file_by_itself(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="reading event files needs tensorboard")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with writer(tmp_path) as events:
        events.add_scalar("train/reward", 0.5, 3)
    (path,) = tmp_path.iterdir()
    found = read(path.rename(tmp_path / "some.thing"))
    assert [(entry.step, entry.row) for entry in found.entries] == [(3, {"rldk/reward/mean": 0.5})]
    assert found.format == "TensorBoard events"


def test_records_of_a_log_in_blocks() -> None:
    """In one piece, in several, around the rest of a block that holds no header, and torn."""

    def piece(kind: int, data: bytes) -> bytes:
        return binary.HEADER.pack(0, len(data), kind) + data

    first = b"a" * (binary.BLOCK_BYTES - 3 * binary.HEADER.size - 1000)
    content = b"x" * binary.HEADER.size + piece(1, first)
    content += piece(2, b"b" * 1000)  # to the block's end
    assert len(content) == binary.BLOCK_BYTES
    content += piece(3, b"c") + piece(4, b"d") + piece(1, b"e" * (binary.BLOCK_BYTES - 2 - 3 * binary.HEADER.size - 5))
    content += b"\0" * 5  # no room for a header
    assert len(content) == 2 * binary.BLOCK_BYTES
    content += piece(1, b"f") + piece(1, b"torn")[:-1]
    records = list(binary.records(content))
    assert records[:2] == [first, b"b" * 1000 + b"cd"]
    assert set(records[2]) == set(b"e") and records[3:] == [b"f"]
