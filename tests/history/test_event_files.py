"""TensorBoard folders, written by a real writer."""

from __future__ import annotations

import pytest

from rldk_tracking.history.reading import read
from rldk_tracking.history.run_history import UnreadableSourceError

pytest.importorskip("tensorboard", reason="reading event files needs tensorboard")


def test_scalars_come_back_by_step_and_a_later_file_holds(tmp_path) -> None:
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with writer(tmp_path / "runs") as first:
        for step in range(5):
            first.add_scalar("train/reward", float(step), step)
            first.add_scalar("train/kl", 0.1, step)
    with writer(tmp_path / "runs", filename_suffix=".resumed") as second:
        for step in range(3, 8):
            second.add_scalar("train/reward", 10.0 + step, step, walltime=4e9)
    entries = read(tmp_path).entries
    assert [entry.step for entry in entries] == list(range(8))
    assert [entry.row["rldk/reward/mean"] for entry in entries] == [0, 1, 2, 13, 14, 15, 16, 17]
    assert entries[2].row["rldk/kl/ref_k3"] == pytest.approx(0.1)


def test_our_own_series_and_the_last_step_come_back(tmp_path) -> None:
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with writer(tmp_path / "runs") as events:
        for step in (1, 2, 3):
            events.add_scalar("train/rldk/reward/mean", step / 4, step)
            events.add_scalar("train/reward", 9.0, step)
        events.add_scalar("train/train_runtime", 5.0, 3)
        events.add_scalar("train/train_loss", 5.0, 3)
    found = [(entry.step, entry.row) for entry in read(tmp_path).entries]
    assert found == [(step, {"rldk/reward/mean": step / 4}) for step in (1, 2, 3)]


def test_a_file_of_something_else(tmp_path) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\x00garbage\xff" * 100)
    with pytest.raises(UnreadableSourceError, match="0 entries"):
        read(tmp_path)
