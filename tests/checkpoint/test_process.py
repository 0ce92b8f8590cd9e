from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.checkpoint.process import NOT_INHERITED, ScanProcess
from rldk_tracking.checkpoint.scan import scan


def test_it_is_no_rank_of_the_training(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = saved.pair()
    for name in NOT_INHERITED:
        monkeypatch.setenv(name, "7")
    process = ScanProcess("standard")
    found = process.scan(second, {"previous": first}, share=(1, 2))
    assert found is not None
    assert found.tensors == scan(second, {"previous": first}, share=(1, 2)).tensors
    process.terminate()  # nothing runs: nothing happens
    process.close()


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScanProcess("light").scan(tmp_path / "checkpoint-1", {})
