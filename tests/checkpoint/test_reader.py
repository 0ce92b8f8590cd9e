"""Folders as trainers write them, read block by block and compared with the safetensors library and torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rldk_tracking.checkpoint.files import DamagedFileError
from rldk_tracking.checkpoint.reader import Checkpoint


def whole(checkpoint: Checkpoint, name: str, elements: int = 1000) -> np.ndarray:
    blocks = [np.array(block) for block in checkpoint.blocks(name, elements)]
    assert all(len(block) == elements for block in blocks[:-1])
    return np.concatenate(blocks)


@pytest.mark.parametrize("writer", ["write", "write_sharded"])
def test_every_tensor_block_by_block(writer: str, tmp_path: Path, saved: Any) -> None:
    content = saved.weights()
    with Checkpoint.open(getattr(saved, writer)(tmp_path / "c", content)) as checkpoint:
        assert set(checkpoint.entries) == set(content)
        assert checkpoint.nbytes == sum(t.numel() * 4 for t in content.values())
        assert checkpoint.config == {"num_hidden_layers": 2}
        for name, values in content.items():
            np.testing.assert_array_equal(whole(checkpoint, name), values.flatten().numpy())


def test_missing_and_damaged_shards_leave_the_rest_readable(tmp_path: Path, saved: Any) -> None:
    folder = saved.write_sharded(tmp_path / "c", saved.weights())
    first, second, third = sorted(folder.glob("*.safetensors"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.missing == [first.name]
        assert list(checkpoint.damaged) == [second.name]
        assert {entry.file for entry in checkpoint.entries.values()} == {third}


def test_an_index_leads_nowhere_else(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "c"
    folder.mkdir()
    index = {"weight_map": {"a": "../secret.safetensors", "b": str(tmp_path / "secret.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.entries == {}


def test_adapters(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    save_file({"base.lora_A.weight": torch.ones(2, 3)}, tmp_path / "c" / "adapter_model.safetensors")
    (tmp_path / "c" / "adapter_config.json").write_text('{"r": 2}')
    with Checkpoint.open(tmp_path / "c") as checkpoint:
        assert checkpoint.is_adapter and checkpoint.config == {"r": 2}


def test_a_single_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "any.safetensors")
    for path in (tmp_path / "any.safetensors", tmp_path):
        with Checkpoint.open(path) as checkpoint:
            assert list(checkpoint.entries) == ["a"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        Checkpoint.open(tmp_path)
    with pytest.raises(FileNotFoundError):
        Checkpoint.open(tmp_path / "nowhere")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights(zipped: bool, tmp_path: Path, saved: Any) -> None:
    content = saved.weights(dtype=torch.bfloat16)
    (tmp_path / "c").mkdir()
    file = tmp_path / "c" / "pytorch_model.bin"
    torch.save({**content, "nested": {"x": torch.ones(2)}}, file, _use_new_zipfile_serialization=zipped)
    with Checkpoint.open(tmp_path / "c") as checkpoint:
        assert set(checkpoint.entries) == {*content, "nested.x"}
        name = "model.embed_tokens.weight"
        assert checkpoint.entries[name].dtype == "BF16"
        np.testing.assert_array_equal(whole(checkpoint, name), content[name].flatten().view(torch.uint16).numpy())


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "c").mkdir()
    torch.save({"a": torch.ones(2), "b": Bomb(str(mark))}, tmp_path / "c" / "pytorch_model.bin")
    with Checkpoint.open(tmp_path / "c") as checkpoint:
        assert "pytorch_model.bin" in checkpoint.damaged
        assert checkpoint.entries == {}
    assert not mark.exists()


def test_a_checkpoint_deleted_while_it_is_read(tmp_path: Path, saved: Any) -> None:
    content = saved.weights()
    folder = saved.write_sharded(tmp_path / "c", content)
    with Checkpoint.open(folder) as checkpoint:
        shutil.rmtree(folder)
        for name, values in content.items():
            np.testing.assert_array_equal(whole(checkpoint, name), values.flatten().numpy())


def test_a_file_cut_short_while_it_is_read(tmp_path: Path, saved: Any) -> None:
    folder = saved.write(tmp_path / "c", saved.weights())
    with Checkpoint.open(folder) as checkpoint:
        blocks = checkpoint.blocks("model.embed_tokens.weight", 100)
        next(blocks)
        os.truncate(folder / "model.safetensors", 100)
        with pytest.raises(DamagedFileError, match="cut short"):
            next(blocks)


@pytest.mark.skipif(sys.platform != "linux", reason="measures with Linux's ru_maxrss")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    save_file({f"t{i}": torch.zeros(6_000_000) for i in range(8)}, tmp_path / "c" / "model.safetensors")
    script = (
        "import resource, sys\n"
        "from rldk_tracking.checkpoint.reader import Checkpoint\n"
        "with Checkpoint.open(sys.argv[1]) as c:\n"
        "    next(c.blocks('t0', 1000))\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    for name in c.entries:\n"
        "        for block in c.blocks(name, 1 << 17): block.max()\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "c")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert int(done.stdout) / 1024 < 64, f"{done.stdout} KiB for a file of 183 MiB"


@pytest.mark.parametrize("weights", [["a"], "a", None, 3, {}])
def test_an_index_that_is_none(weights: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.damaged == {
            "model.safetensors.index.json": "model.safetensors.index.json is no index of weights."
        }
        assert checkpoint.entries == {}
