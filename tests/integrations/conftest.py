"""Training stacks that are not installed here: modules with the one class that a plugin of theirs needs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

Stack = Callable[..., Any]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """`stack("verl.utils.tracking", Tracking=...)`: our module for that stack, imported beside it."""
    imported: list[str] = []

    def install(module: str, **members: Any) -> ModuleType:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        vars(sys.modules[module]).update(members)
        imported.append(f"rldk_tracking.integrations.{parts[0]}")
        sys.modules.pop(imported[-1], None)
        return importlib.import_module(imported[-1])

    yield install
    for name in imported:
        sys.modules.pop(name, None)
