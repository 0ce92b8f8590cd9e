"""Rules that hold for the package as a whole: what importing it costs, how it is laid out, what it never does."""

from __future__ import annotations

import ast
import importlib
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rldk_tracking

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rldk_tracking"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAY_CATCH_ANYTHING = {"isolation.py", "journal/courier.py", "ranks.py"}
"""The shield around what happens in the training, a rank that must not leave the others waiting for its numbers, and
the courier, which delivers whatever its watchdog does."""
NO_TEST_OF_THEIR_OWN = {"__init__.py", "__main__.py"}


def inside(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in MODULES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("name", rldk_tracking.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(rldk_tracking, name)
    assert value is not None
    assert not isinstance(value, type(sys)), f"{name} is a module"


def test_the_three_lists_of_public_names_agree() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == {name: f"rldk_tracking.{home}" for name, home in rldk_tracking._HOME.items()}
    assert {*typed, "__version__"} == set(rldk_tracking.__all__)
    assert set(rldk_tracking.__all__) <= set(dir(rldk_tracking))


def test_public_names_survive_an_import_of_their_modules() -> None:
    for home in set(rldk_tracking._HOME.values()):
        importlib.import_module(f"rldk_tracking.{home}")
    for name in rldk_tracking.__all__:
        assert not isinstance(getattr(rldk_tracking, name), type(sys)), f"{name} became a module"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rldk_tracking.no_such_name


def test_import_loads_nothing_heavy() -> None:
    loaded = json.loads(python("import json, sys, rldk_tracking; print(json.dumps(sorted(sys.modules)))"))
    heavy = {"torch", "transformers", "trl", "wandb", "mlflow", "numpy", "pydantic", "requests", "pynvml", "psutil"}
    assert not heavy & set(loaded)


def test_import_takes_less_than_a_tenth_of_a_second() -> None:
    # 0.04 s on an idle machine. Of the processor, in a new interpreter each.
    code = "import time; start = time.process_time(); import rldk_tracking; print(time.process_time() - start)"
    assert statistics.median(float(python(code)) for _ in range(7)) < 0.1


@pytest.mark.parametrize("path", [path for path in MODULES if path.name not in NO_TEST_OF_THEIR_OWN], ids=inside)
def test_every_file_has_a_test_of_its_name(path: Path) -> None:
    mirrored = ROOT / "tests" / path.relative_to(PACKAGE).parent / f"test_{path.name}"
    assert mirrored.is_file()


@pytest.mark.parametrize("path", MODULES, ids=inside)
def test_no_file_is_too_long_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_the_top_of_the_package_is_seen_at_a_glance() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def test_faults_are_swallowed_in_two_places_only() -> None:
    broad = {
        inside(path)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _raises_again(node)
    }
    assert broad <= MAY_CATCH_ANYTHING


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def _is_broad(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in ("Exception", "BaseException") for name in names)


def test_nothing_is_evaluated_unpickled_or_given_to_a_shell() -> None:
    forbidden = re.compile(r"^(eval|exec|compile|__import__|os\.system|os\.popen|pickle\..*|dill\..*|yaml\.load)$")
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not forbidden.match(called), f"{inside(path)}:{node.lineno} calls {called}"
                for keyword in node.keywords:
                    value = getattr(keyword.value, "value", None)
                    assert not (keyword.arg == "shell" and value is not False), f"{inside(path)}:{node.lineno}"
                if called.endswith("torch.load"):
                    safe = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                    assert safe.get("weights_only") is True, f"{inside(path)}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "marshal", "shelve"):
                # The error that torch raises for what it refuses to unpickle may be named.
                assert [alias.name for alias in node.names] == ["UnpicklingError"], f"{inside(path)}:{node.lineno}"


def test_only_the_command_line_prints() -> None:
    for path, tree in trees():
        if not inside(path).startswith("cli/"):
            calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert "print" not in calls, inside(path)


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", "ruff", *command, "."], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout


def test_mypy_finds_nothing() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "rldk_tracking"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout
