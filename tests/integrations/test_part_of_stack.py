"""A plugin outside its stack, or in another release of it, says so."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from rldk_tracking.integrations import part_of_stack


@pytest.mark.parametrize("name", ["axolotl", "swift", "verl"])
def test_a_stack_that_is_not_installed_is_named(name: str) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ImportError, match=rf"integrations\.{name} is imported by {name}, which is not installed"):
        importlib.import_module(f"rldk_tracking.integrations.{name}")


def test_a_release_without_the_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stack", ModuleType("stack"))
    with pytest.raises(ImportError, match=r"this stack has no stack\.Base: rldk_tracking cannot be its plugin"):
        part_of_stack("stack", "Base")
    with pytest.raises(ImportError, match=r"this stack has no module stack\.plugins"):
        part_of_stack("stack.plugins", "Base")


def test_what_the_stack_itself_lacks_is_its_own_error(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        @staticmethod
        def find_spec(name: str, path: object, target: object = None) -> None:
            if name == "stack_that_lacks":
                raise ModuleNotFoundError("No module named 'orjson'", name="orjson")

    monkeypatch.setattr(sys, "meta_path", [Lacking, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="orjson"):
        part_of_stack("stack_that_lacks", "Base")
