"""A scan of real folders: numbers against torch, faults against the rules that they must trip."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file, save_file

from rldk_tracking.checkpoint import integrity, report, score
from rldk_tracking.checkpoint import scan as scanning
from rldk_tracking.checkpoint.scan import load_vectors, save_vectors, scan, spectral_norm
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.metrics.keys import lookup


def flat(folder: Path) -> torch.Tensor:
    content = load_file(folder / "model.safetensors")
    return torch.cat([content[name].double().flatten() for name in sorted(content)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_drift_of_the_whole(dtype: torch.dtype, saved: Any) -> None:
    first, second = saved.pair(by=0.05, dtype=dtype)
    a, b = flat(second), flat(first)
    found = scan(second, {"previous": first, "first": first, "reference": second})
    assert found.step == 20
    assert found.problems == []
    for label in ("previous", "first"):
        drift = found.drift(label)
        assert drift is not None
        assert drift.relative == pytest.approx(((a - b).norm() / b.norm()).item(), rel=1e-5)
        assert drift.cosine == pytest.approx(torch.nn.functional.cosine_similarity(a, b, dim=0).item(), abs=1e-6)
    assert found.unchanged("previous") is False
    assert found.unchanged("reference") is True
    assert found.unchanged("elsewhere") is None
    row = report.metrics(found)
    assert row["rldk/checkpoint/norm"] == pytest.approx(a.norm().item(), rel=1e-5)
    assert row["rldk/checkpoint/drift_previous"] == row["rldk/checkpoint/drift"]
    assert row["rldk/checkpoint/drift_reference"] == 0.0
    assert row["rldk/checkpoint/score"] > 0.9


def test_every_key_is_in_the_catalogue(saved: Any) -> None:
    first, second = saved.pair()
    row = report.metrics(scan(second, {"previous": first, "first": first, "reference": first}, level="full"))
    assert len(row) > 20
    assert [key for key in row if lookup(key) is None] == []
    assert all(math.isfinite(value) for value in row.values())


def spoil_nan(folder: Path, saved: Any) -> None:
    edit(folder, lambda content: content["model.layers.1.q_proj.weight"].view(-1).__setitem__(5, math.nan))


def spoil_truncated(folder: Path, saved: Any) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def spoil_shard(folder: Path, saved: Any) -> None:
    content = load_file(folder / "model.safetensors")
    shutil.rmtree(folder)
    saved.write_sharded(folder, content)
    sorted(folder.glob("*.safetensors"))[0].unlink()


def spoil_unchanged(folder: Path, saved: Any) -> None:
    shutil.copy(folder.parent / "checkpoint-10" / "model.safetensors", folder / "model.safetensors")


def spoil_scale(folder: Path, saved: Any) -> None:
    edit(folder, lambda content: content["model.layers.1.q_proj.weight"].mul_(100))


def spoil_model(folder: Path, saved: Any) -> None:
    edit(folder, lambda content: content.update(saved.weights(seed=9)))


def spoil_state(folder: Path, saved: Any) -> None:
    (folder / "optimizer.pt").unlink()


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    content = load_file(folder / "model.safetensors")
    change(content)
    save_file(content, folder / "model.safetensors")


FAULTS = [
    (spoil_nan, "checkpoint.nonfinite", "finite"),
    (spoil_truncated, "checkpoint.corrupt", "intact"),
    (spoil_shard, "checkpoint.incomplete", "complete"),
    (spoil_unchanged, "checkpoint.unchanged", None),
    (spoil_scale, "checkpoint.drift", "balanced"),
    (spoil_model, "checkpoint.drift", "similar"),
    (spoil_state, "checkpoint.incomplete", "complete"),
]


@pytest.mark.parametrize(("spoil", "rule", "part"), FAULTS, ids=[f[0].__name__ for f in FAULTS])
def test_each_fault_trips_its_rule(spoil: Any, rule: str, part: str | None, saved: Any) -> None:
    first, second = saved.pair()
    engine = Engine(rules_for("safe", {}), context={})
    assert engine.update(10, report.metrics(scan(first))) == []
    healthy = scan(second, {"previous": first, "first": first})
    assert engine.update(19, report.metrics(healthy)) == []
    assert score.verdict(healthy) == "healthy"
    spoil(second, saved)
    found = scan(second, {"previous": first, "first": first})
    fired = [alert.rule for alert in engine.update(20, report.metrics(found))]
    assert rule in fired
    assert score.verdict(found) in ("warning", "critical")
    if part is not None:
        known = score.parts(found)
        assert known[part] < 0.9
        assert score.score(known) == min(known.values())


def test_a_frozen_layer_is_told_from_the_others(saved: Any) -> None:
    first, second = saved.pair()
    before = load_file(first / "model.safetensors")
    frozen = {name: values for name, values in before.items() if "layers.1" in name}
    edit(second, lambda content: content.update(frozen))
    found = scan(second, {"previous": first})
    drift = found.drift("previous", "model.layers.1")
    assert drift is not None and drift.distance == 0.0
    assert found.unchanged("previous") is False
    assert report.metrics(found)["rldk/checkpoint/layer_drift/p10"] < 1e-3
    assert report.metrics(found)["rldk/checkpoint/still_layers"] == 1.0
    whole = report.metrics(scan(first, {"previous": first}))
    assert whole["rldk/checkpoint/unchanged"] == 1.0 and "rldk/checkpoint/still_layers" not in whole


def test_a_file_cut_short_between_two_tensors(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, second = saved.pair()
    measure, calls = scanning.measure, []

    def cut_at_the_second(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            with (second / "model.safetensors").open("r+b") as stream:
                stream.truncate(2000)
        return measure(*args)

    monkeypatch.setattr(scanning, "measure", cut_at_the_second)
    found = scan(second)
    assert [problem.kind for problem in found.problems] == ["corrupt"]
    assert len(found.tensors) == 1
    assert score.verdict(found) == "critical"


def test_light_reads_no_tensor(saved: Any) -> None:
    _, second = saved.pair()
    found = scan(second, level="light")
    assert found.tensors == {} and len(found.entries) == 6
    row = report.metrics(found)
    assert "rldk/checkpoint/norm" not in row and "rldk/checkpoint/nonfinite" not in row


def test_full_adds_the_spectrum(saved: Any) -> None:
    _, second = saved.pair()
    found = scan(second, level="full")
    weights = load_file(second / "model.safetensors")["model.layers.0.q_proj.weight"].double()
    statistics = found.tensors["model.layers.0.q_proj.weight"]
    largest = torch.linalg.svdvals(weights)[0].item()
    assert statistics.spectral_norm == pytest.approx(largest, rel=0.01)
    assert statistics.stable_rank == pytest.approx((weights.norm() ** 2).item() / largest**2, rel=0.02)
    assert found.tensors["model.layers.0.norm.weight"].spectral_norm is None
    assert set(found.vectors) == {name for name in found.tensors if "norm" not in name}


def test_a_comparison_that_is_gone_is_left_out(saved: Any, tmp_path: Path) -> None:
    _, second = saved.pair()
    found = scan(second, {"previous": tmp_path / "gone"})
    assert found.compared == ()
    assert "rldk/checkpoint/unchanged" not in report.metrics(found)


def quantised(saved: Any, folder: Path, shift: int = 0) -> Path:
    """As bitsandbytes saves them: int8 weights with a scale for each row, and one layer in full."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-100, 100, (300, 200), generator=generator, dtype=torch.int8)
    codes[0, 0] += shift
    content = {
        "model.layers.0.q_proj.weight": codes,
        "model.layers.0.q_proj.SCB": torch.rand(300, generator=generator),
        "model.layers.1.q_proj.weight": torch.randn(64, 64, generator=generator),
        "model.layers.1.mask": torch.ones(64, dtype=torch.bool),
    }
    return saved.write(folder, content)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("shift", "unchanged"), [(0, True), (1, False)])
def test_int8_weights(saved: Any, tmp_path: Path, shift: int, unchanged: bool) -> None:
    first = quantised(saved, tmp_path / "checkpoint-10")
    second = quantised(saved, tmp_path / "checkpoint-20", shift)
    found = scan(second, {"previous": first, "first": first}, level="full")
    assert found.problems == []
    assert set(found.entries) - set(found.tensors) == {"model.layers.0.q_proj.weight", "model.layers.1.mask"}
    assert found.drift("previous").distance == 0.0  # type: ignore[union-attr]
    assert found.differing == {"previous": shift, "first": shift}
    assert found.unchanged("previous") is unchanged
    assert report.metrics(found)["rldk/checkpoint/unchanged"] == float(unchanged)
    assert score.verdict(found) == ("warning" if unchanged else "healthy")
    stored, values = found.tensors["model.layers.1.q_proj.weight"], load_file(second / "model.safetensors")
    expected = np.linalg.norm(values["model.layers.1.q_proj.weight"].double().numpy(), 2)
    assert stored.spectral_norm == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_of_integers_alone(saved: Any, tmp_path: Path) -> None:
    paths = [
        saved.write(tmp_path / f"checkpoint-{step}", {"a.weight": torch.full((9, 9), step, dtype=torch.int8)})
        for step in (1, 2)
    ]
    found = scan(paths[1], {"previous": paths[0]})
    assert (found.tensors, found.drift("previous"), found.unchanged("previous")) == ({}, None, False)
    assert report.metrics(found)["rldk/checkpoint/unchanged"] == 0.0
    assert "rldk/checkpoint/norm" not in report.metrics(found)


def test_other_formats_than_before_are_not_compared(saved: Any, tmp_path: Path) -> None:
    first = saved.write(tmp_path / "checkpoint-1", {"a.weight": torch.ones(4, 4)})
    second = saved.write(tmp_path / "checkpoint-2", {"a.weight": torch.ones(4, 4, dtype=torch.int8)})
    found = scan(second, {"previous": first})
    assert found.unchanged("previous") is None
    assert [problem.kind for problem in found.problems] == ["changed"]


def test_a_shard_that_is_cut_while_it_is_read(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved.pair()
    original = integrity.check

    def check_and_cut(*args: Any, **kwargs: Any) -> Any:
        problems = original(*args, **kwargs)
        file = path / "model.safetensors"
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size // 2)
        return problems

    monkeypatch.setattr(integrity, "check", check_and_cut)
    found = scan(path)
    assert [problem.kind for problem in found.problems] == ["corrupt"]
    assert score.verdict(found) == "critical"


def test_singular_vectors_there_and_back(saved: Any, tmp_path: Path) -> None:
    first, _ = saved.pair()
    vectors = scan(first, level="full").vectors
    assert load_vectors(None) == load_vectors(tmp_path / "none.npz") == {}
    save_vectors(tmp_path / "vectors.npz", vectors)
    again = load_vectors(tmp_path / "vectors.npz")
    assert again.keys() == vectors.keys() and all(np.array_equal(again[name], vectors[name]) for name in vectors)


def blocks_of(matrix: np.ndarray, calls: list[int] | None = None) -> Callable[[int], Iterator[np.ndarray]]:
    flat = matrix.reshape(-1)

    def blocks(size: int) -> Iterator[np.ndarray]:
        if calls is not None:
            calls.append(size)
        return (flat[start : start + size] for start in range(0, len(flat), size))

    return blocks


@pytest.mark.parametrize("shape", [(5, 3), (64, 100), (300, 20), (1, 9), (9, 1), (4, 3, 5)])
@pytest.mark.parametrize("block", [64, 1 << 17])
def test_against_scipy(shape: tuple[int, ...], block: int) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    largest = scipy.linalg.svdvals(matrix.reshape(shape[0], -1).astype(float))[0]
    found = spectral_norm(blocks_of(matrix), "F32", shape, block=block)
    assert found is not None
    assert found[0] == pytest.approx(largest, rel=0.01)
    assert found[0] <= largest * (1 + 1e-5)


def test_bf16() -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    bits = (matrix.view(np.uint32) >> 16).astype(np.uint16)
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    found = spectral_norm(blocks_of(bits), "BF16", (40, 30))
    assert found is not None
    assert found[0] == pytest.approx(scipy.linalg.svdvals(rounded.astype(float))[0], rel=0.01)


def test_a_warm_start_takes_fewer_passes() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(200, 300)).astype(np.float32)
    cold: list[int] = []
    found = spectral_norm(blocks_of(matrix, cold), "F32", matrix.shape)
    assert found is not None
    warm: list[int] = []
    nudged = matrix + 1e-4 * generator.normal(size=matrix.shape).astype(np.float32)
    assert spectral_norm(blocks_of(nudged, warm), "F32", matrix.shape, found[1]) is not None
    assert len(warm) < len(cold) / 2


def test_degenerate() -> None:
    assert spectral_norm(blocks_of(np.ones(4, np.float32)), "F32", (4,)) is None
    assert spectral_norm(blocks_of(np.ones((0, 4), np.float32)), "F32", (0, 4)) is None
    zero = spectral_norm(blocks_of(np.zeros((4, 4), np.float32)), "F32", (4, 4))
    assert zero is not None and zero[0] == 0.0
