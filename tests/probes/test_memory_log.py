from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.monitors.memory import MemoryLog

GIB = float(1 << 30)


def test_what_is_held_is_told_at_each_save_and_advice_until_the_size_is_known(run: Any) -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    run.open()
    log = MemoryLog(run, SimpleNamespace(save_total_limit=None))
    for step, (size, saves) in enumerate([(None, 0), (1.0, 5), (1.0, 9)]):
        row = log.tell(model, optimizer, step, size, saves)
        assert row["rldk/memory/parameters_gib"] * GIB == 4e6
        assert row["rldk/memory/optimizer_gib"] * GIB == pytest.approx(8e6, rel=1e-3)
        assert "rldk/memory/activations_gib" not in row
    run.finish(3)
    assert run.latest["rldk/memory/gradients_gib"] * GIB == 4e6
    ((step, columns, rows),) = run.seen.tables["rldk/memory/suggestions"]
    assert (step, columns) == (1, ["change", "saves GiB"])
    assert rows == [["save_total_limit=2", 3.0]]
