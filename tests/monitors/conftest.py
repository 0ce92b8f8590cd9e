from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.run import Run, Settings
from rldk_tracking.trackers.memory import InMemoryTracker


@pytest.fixture
def run() -> Any:
    """A run that is judged at once, with `run.seen` its tracker."""
    tracker = InMemoryTracker()
    made = Run(Settings(trackers=[tracker], strict=True))
    made.seen = tracker  # type: ignore[attr-defined]
    yield made
    made.close("finished")


@pytest.fixture
def small_training() -> Callable[[], SimpleNamespace]:
    """A linear model with its optimizer, and a function that makes one step."""

    def make() -> SimpleNamespace:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

        def step() -> float:
            optimizer.zero_grad()
            loss = model(torch.ones(4, 3)).square().sum()
            loss.backward()
            optimizer.step()
            return float(loss)

        return SimpleNamespace(model=model, optimizer=optimizer, step=step)

    return make
