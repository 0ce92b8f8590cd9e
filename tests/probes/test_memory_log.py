from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from rldk_tracking.probes.memory_log import MemoryLog
from tests.probes.conftest import Published

GIB = float(1 << 30)
SUGGESTIONS = "rldk/memory/suggestions"


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A million parameters of 4 bytes, with gradients and Adam's two moments."""
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_what_is_held_is_told_at_each_save_and_advice_until_the_size_is_known(published: Published) -> None:
    model, optimizer = trained()
    log = MemoryLog(published, SimpleNamespace(save_total_limit=None))
    for step, (size, saves) in enumerate([(None, 0), (1.0, 5), (1.0, 9)]):
        row = log.log(model, optimizer, step, size, saves)
        assert row["rldk/memory/parameters_gib"] * GIB == 4e6
        assert row["rldk/memory/gradients_gib"] * GIB == 4e6
        assert row["rldk/memory/optimizer_gib"] * GIB == pytest.approx(8e6, rel=1e-3)
        assert "rldk/memory/activations_gib" not in row
    ((columns, rows, step),) = published.of("log_table", SUGGESTIONS)
    assert (step, columns) == (1, ["change", "saves GiB"])
    assert rows == [["save_total_limit=2", 3.0]]


def test_where_there_is_nothing_to_suggest_there_is_no_table(published: Published) -> None:
    log = MemoryLog(published, SimpleNamespace(save_total_limit=2))
    log.log(*trained(), 1, 1.0, 9)
    assert published.calls == []
