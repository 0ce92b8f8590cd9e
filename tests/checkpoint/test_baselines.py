from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.checkpoint.baselines import FOLDER, MOST, Baselines, KeptWeights
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.scan import scan


def save(saved: Any, folder: Path, step: int) -> Path:
    return saved.write(folder / f"checkpoint-{step}", saved.weights(seed=step))  # type: ignore[no-any-return]


def rotate(saved: Any, folder: Path, baselines: Baselines, steps: tuple[int, ...]) -> list[Scan]:
    """Save and scan as a training does that keeps one checkpoint."""
    scans = []
    for step in steps:
        path = save(saved, folder, step)
        for other in folder.glob("checkpoint-*"):
            if other != path:
                shutil.rmtree(other)
        scans.append(scan(path, baselines.take(path)))
        baselines.scanned(scans[-1])
    return scans


def test_drift_is_known_although_everything_else_is_deleted(
    saved: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    baselines = Baselines(None, keep_in=tmp_path)
    scans = rotate(saved, tmp_path, baselines, (10, 20, 30, 40))
    assert [set(found.compared) for found in scans] == [set(), *[{"previous", "first"}] * 3]
    whole, other = (saved.weights(seed=step) for step in (40, 10))
    expected = sum(float((whole[n].double() - other[n].double()).square().sum()) for n in whole) ** 0.5
    assert scans[-1].drift("first").distance == pytest.approx(expected, rel=1e-5)  # type: ignore[union-attr]
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {"checkpoint-10", "checkpoint-40"}
    baselines.close()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-40"}
    assert caplog.text == ""


def test_without_keeping_the_end_of_the_drift_is_said_once(
    saved: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = rotate(saved, tmp_path, Baselines(None), (10, 20, 30))
    assert [found.compared for found in scans] == [(), (), ()]
    assert caplog.text.count("rldk/checkpoint/drift ends") == 1
    assert "checkpoint-10" in caplog.text
    assert not (tmp_path / FOLDER).exists()


def test_a_file_system_without_links(
    saved: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    baselines = Baselines(None, keep_in=tmp_path)
    first, second = save(saved, tmp_path, 10), save(saved, tmp_path, 20)
    baselines.take(first)
    assert baselines.take(second) == {"previous": first, "first": first}
    assert caplog.text.count("no hard links") == 1


def test_a_resumed_training_goes_on_measuring_from_the_first(saved: Any, tmp_path: Path) -> None:
    rotate(saved, tmp_path, Baselines(None, keep_in=tmp_path), (10, 20))  # and no end: it was killed
    again = Baselines(tmp_path, keep_in=tmp_path)
    again.begin(tmp_path, 20)
    against = again.take(save(saved, tmp_path, 30))
    assert {label: path.name for label, path in against.items()} == {
        "previous": "checkpoint-20",
        "first": "checkpoint-10",
        "reference": tmp_path.name,
    }


def test_a_new_training_in_an_old_folder_knows_nothing(saved: Any, tmp_path: Path) -> None:
    rotate(saved, tmp_path, Baselines(None, keep_in=tmp_path), (10, 20))
    again = Baselines(None, keep_in=tmp_path)
    again.begin(tmp_path, 0)
    assert again.take(save(saved, tmp_path, 5)) == {}
    assert {path.name for path in (tmp_path / FOLDER).iterdir()} == {"checkpoint-5"}


def names(kept: KeptWeights) -> list[str]:
    return [path.name for path in kept.checkpoints()]


def test_the_weights_outlive_the_checkpoint(saved: Any, tmp_path: Path) -> None:
    first, second = saved.pair(by=0.01)
    expected = scan(second, {"previous": first}).drift("previous")
    kept = KeptWeights(tmp_path)
    held = kept.keep(first)
    assert held.parent.name == FOLDER
    assert os.stat(held / "model.safetensors").st_nlink == 2  # no second copy
    assert {file.name for file in held.iterdir()} == {"model.safetensors", "config.json"}  # no optimizer
    shutil.rmtree(first)
    assert scan(second, {"previous": held}).drift("previous") == expected
    kept.clear()
    assert not (tmp_path / FOLDER).exists()


def test_shards_and_their_index(saved: Any, tmp_path: Path) -> None:
    sharded = saved.write_sharded(tmp_path / "checkpoint-10", saved.weights())
    held = KeptWeights(tmp_path).keep(sharded)
    shutil.rmtree(sharded)
    assert len(scan(held).tensors) == 6
    assert scan(held).problems == []


def test_only_what_is_still_compared_with_stays(saved: Any, tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path)
    content = saved.weights()
    for step in (10, 20, 30):
        kept.keep(saved.write(tmp_path / f"checkpoint-{step}", content))
    kept.release(20)
    assert names(kept) == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    kept.release(30)
    assert names(kept) == ["checkpoint-10", "checkpoint-30"]
    for step in (40, 50, 60, 70):  # no scan ends
        kept.keep(saved.write(tmp_path / f"checkpoint-{step}", content))
        kept.release(30)
    assert names(kept) == ["checkpoint-10", "checkpoint-60", "checkpoint-70"]
    assert len(names(kept)) == MOST
    kept.forget_after(60)
    assert names(kept) == ["checkpoint-10", "checkpoint-60"]


def test_what_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="checkpoint-10"):
        KeptWeights(tmp_path).keep(tmp_path / "checkpoint-10")
