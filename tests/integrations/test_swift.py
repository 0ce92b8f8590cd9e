"""ms-swift's way to read a plugin file (`swift.utils.import_external_file`), with the table that it then looks into."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rldk_tracking.integrations
from rldk_tracking.callback import RLDKCallback

FOLDER = Path(rldk_tracking.integrations.__file__).parent


def read_plugin(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("_swift_external_1", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_adds_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks: dict[str, Any] = {"lisa": object}
    swift, of_callbacks = ModuleType("swift"), ModuleType("swift.callbacks")
    vars(of_callbacks)["callbacks_map"] = callbacks
    monkeypatch.setitem(sys.modules, "swift", swift)
    monkeypatch.setitem(sys.modules, "swift.callbacks", of_callbacks)
    monkeypatch.setattr(sys, "path", [*sys.path])
    read_plugin(FOLDER / "swift.py")
    assert set(callbacks) == {"lisa", "rldk"}
    assert str(FOLDER) not in sys.path, "a file there has the name of accelerate"
    sys.path.insert(0, str(FOLDER))  # as where ms-swift comes to the file once more
    made = callbacks["rldk"](object(), object())
    assert type(made) is RLDKCallback
    assert str(FOLDER) not in sys.path
