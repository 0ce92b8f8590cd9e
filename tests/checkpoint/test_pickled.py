from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from rldk_tracking.checkpoint.entries import DamagedFileError
from rldk_tracking.checkpoint.pickled import NAMES, read_pickle


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64])
def test_every_type_comes_as_its_raw_elements(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.arange(6).reshape(2, 3).to(dtype)
    torch.save({"a": values}, tmp_path / "w.bin")
    name, shape, raw = read_pickle(tmp_path / "w.bin")["a"]
    assert name == NAMES[str(dtype).removeprefix("torch.")]
    assert shape == (2, 3)
    np.testing.assert_array_equal(raw.view(np.uint8), values.flatten().view(torch.uint8).numpy())


def test_a_state_dict_inside_another_keeps_its_path(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "step": 3}, tmp_path / "w.bin")
    assert list(read_pickle(tmp_path / "w.bin")) == ["model.a"]


def test_what_holds_more_than_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"a": torch.ones(2), "b": Bomb(str(mark))}, tmp_path / "w.bin")
    with pytest.raises(DamagedFileError, match="cannot be read as weights alone"):
        read_pickle(tmp_path / "w.bin")
    assert not mark.exists()


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "w.bin")
    whole = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError):
        read_pickle(tmp_path / "w.bin")
