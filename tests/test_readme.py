"""The README is short, and says what is there: its commands, names and files. Of the site: test_docs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rldk_tracking
from rldk_tracking.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def test_it_is_short_and_begins_with_the_two_lines() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= 170
    first_screen = "\n".join(lines[:20])
    assert "from rldk_tracking import RLDKCallback" in first_screen
    assert "callbacks=[RLDKCallback()]" in first_screen


def test_the_two_commands() -> None:
    shell = [block.strip() for language, block in BLOCKS if language == "bash"]
    assert shell[:2] == ['python -m pip install -e ".[demo]" && rldk-tracking demo', "python -m pip install tox && tox"]


def test_ci_runs_the_second_one() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "python -m pip install tox && tox"


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_parses_and_its_names_exist(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module == "rldk_tracking":
            assert all(alias.name in rldk_tracking.__all__ for alias in node.names)


def test_every_command_is_named() -> None:
    assert set(re.findall(r"rldk-tracking ([a-z]+)", TEXT)) == set(COMMANDS)


def test_every_example_is_named() -> None:
    assert set(re.findall(r"\(examples/(\w+\.py)\)", TEXT)) == {path.name for path in (ROOT / "examples").glob("*.py")}


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
