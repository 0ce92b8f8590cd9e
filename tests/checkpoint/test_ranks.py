from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from rldk_tracking.checkpoint.ranks import gather, leave
from rldk_tracking.checkpoint.record import to_dict
from rldk_tracking.checkpoint.scan import scan


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that torchrun gives a world of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


def test_the_share_of_a_world_of_one_is_the_whole(alone: None, tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "b": torch.full((2, 2), float("nan"))}, tmp_path / "model.safetensors")
    found = scan(tmp_path)
    together = gather(found)
    assert dist.is_initialized()
    assert to_dict(together)["tensors"] == to_dict(found)["tensors"]
    leave()
    assert not dist.is_initialized()
    leave()  # where there is no group there is nothing to end
    assert os.environ["WORLD_SIZE"] == "1"
