"""Folders with one fault each, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rldk_tracking.checkpoint.integrity import Problem, check, disk, folder_bytes, number_in
from rldk_tracking.checkpoint.reader import Checkpoint


def problems(folder: Path, previous: Path | None = None, **options: Any) -> list[Problem]:
    with Checkpoint.open(folder) as checkpoint:
        if previous is None:
            return check(checkpoint, **options)
        with Checkpoint.open(previous) as before:
            return check(checkpoint, before.entries, **options)


def kinds(found: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.kind, problem.name) for problem in found]


@pytest.mark.parametrize("writer", ["write", "write_sharded"])
def test_a_whole_checkpoint_has_no_problem(writer: str, tmp_path: Path, saved: Any) -> None:
    assert problems(getattr(saved, writer)(tmp_path / "c", saved.weights())) == []


def test_a_missing_shard_is_one_problem(tmp_path: Path, saved: Any) -> None:
    folder = saved.write_sharded(tmp_path / "c", saved.weights())
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    assert kinds(problems(folder)) == [("incomplete", shard.name)]


def test_a_truncated_shard_is_one_problem(tmp_path: Path, saved: Any) -> None:
    folder = saved.write_sharded(tmp_path / "c", saved.weights())
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    found = problems(folder)
    assert kinds(found) == [("corrupt", shard.name)]
    assert "truncated" in found[0].message


def test_a_tensor_that_the_index_promises(tmp_path: Path, saved: Any) -> None:
    folder = saved.write_sharded(tmp_path / "c", saved.weights())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.1.extra"] = sorted(folder.glob("*.safetensors"))[0].name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert kinds(problems(folder)) == [("incomplete", "model.layers.1.extra")]


def test_a_layer_that_the_configuration_promises(tmp_path: Path, saved: Any) -> None:
    content = saved.weights()
    folder = saved.write(tmp_path / "c", {k: v for k, v in content.items() if ".1." not in k})
    assert kinds(problems(folder)) == [("incomplete", "model.layers.1")]


def test_against_the_checkpoint_before(tmp_path: Path, saved: Any) -> None:
    content = saved.weights()
    before = saved.write(tmp_path / "a", content)
    changed = dict(content)
    del changed["lm_head.weight"]
    changed["model.embed_tokens.weight"] = content["model.embed_tokens.weight"].bfloat16()
    changed["model.layers.0.norm.weight"] = torch.ones(63)
    found = problems(saved.write(tmp_path / "b", changed), before)
    assert set(kinds(found)) == {
        ("changed", "model.embed_tokens.weight"),
        ("incomplete", "lm_head.weight"),
        ("changed", "model.layers.0.norm.weight"),
    }


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_missing_state_for_a_resume(name: str, tmp_path: Path, saved: Any) -> None:
    folder = saved.write(tmp_path / "c", saved.weights())
    (folder / name).unlink()
    assert kinds(problems(folder)) == [("incomplete", name)]


def test_an_exported_model_needs_no_state_unless_it_is_asked_for(tmp_path: Path, saved: Any) -> None:
    folder = saved.write(tmp_path / "c", saved.weights(), resumable=False)
    assert problems(folder) == []
    assert len(problems(folder, resumable=True)) == 4


def test_a_truncated_optimizer_state(tmp_path: Path, saved: Any) -> None:
    folder = saved.write(tmp_path / "c", saved.weights())
    file = folder / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-30])
    assert kinds(problems(folder)) == [("corrupt", "optimizer.pt")]


def test_state_of_other_frameworks_is_left_alone(tmp_path: Path, saved: Any) -> None:
    folder = saved.write(tmp_path / "c", saved.weights(), resumable=False)
    (folder / "scheduler.pt").write_bytes(b"")
    (folder / "global_step20").mkdir()
    assert problems(folder) == []


def test_tied_weights_and_adapters(tmp_path: Path, saved: Any) -> None:
    content = saved.weights()
    del content["lm_head.weight"]  # as transformers writes a tied head
    assert problems(saved.write(tmp_path / "a", content)) == []
    adapter = tmp_path / "b"
    adapter.mkdir()
    save_file({"base_model.model.model.layers.0.q.lora_A.weight": torch.ones(2)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"num_hidden_layers": 5}')
    assert problems(adapter) == []


def test_disk(tmp_path: Path, saved: Any) -> None:
    folder = saved.write(tmp_path / "c", saved.weights())
    size = folder_bytes(folder)
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    room, problem = disk(folder)
    assert room == pytest.approx(shutil.disk_usage(folder).free / size, rel=0.05)
    assert problem is None
    free = shutil.disk_usage(folder).free
    room, problem = disk(folder, size=free // 2)
    assert problem is not None and problem.kind == "disk" and "2 more saves" in problem.message
    assert disk(folder, saves_left=1, size=free // 2)[1] is None


@pytest.mark.timeout(30)
@pytest.mark.parametrize("wanted", [1_000_000_000, 10**30])
def test_a_number_of_layers_that_no_model_has(saved: Any, wanted: int) -> None:
    """Nothing of that size is formed."""
    path, _ = saved.pair()
    (path / "config.json").write_text(json.dumps({"num_hidden_layers": wanted}))
    with Checkpoint.open(path) as checkpoint:
        (problem,) = check(checkpoint)
    assert problem.kind == "incomplete" and problem.message == f"2 of {wanted} layers are there."


@pytest.mark.parametrize("wanted", [-3, True, 2.5, None, "2", [2]])
def test_what_is_no_number_of_layers(saved: Any, wanted: Any) -> None:
    path, _ = saved.pair()
    (path / "config.json").write_text(json.dumps({"num_hidden_layers": wanted}))
    with Checkpoint.open(path) as checkpoint:
        assert check(checkpoint) == []


def test_a_configuration_that_is_no_json_is_damaged(saved: Any) -> None:
    path, _ = saved.pair()
    (path / "config.json").write_text('{"num_hidden_layers": ')
    with Checkpoint.open(path) as checkpoint:
        assert [(p.kind, p.name) for p in check(checkpoint)] == [("corrupt", "config.json")]


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("²", None), ("٣", None), ("", None), ("-1", None), ("9" * 5000, None)]
)
def test_numbers_in_names(text: str, number: int | None) -> None:
    assert number_in(text) == number
