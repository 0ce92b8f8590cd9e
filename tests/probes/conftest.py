"""What a probe is driven with: a small training, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class Published:
    """Takes the place of `Training.publish`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, method: str, *args: Any) -> None:
        self.calls.append((method, *args))

    def of(self, method: str, key: str) -> list[tuple[Any, ...]]:
        """What was given to a method under a key, without both."""
        return [call[2:] for call in self.calls if call[:2] == (method, key)]


@pytest.fixture
def published() -> Published:
    return Published()


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
