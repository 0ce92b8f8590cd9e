"""The README says what is there: its commands, names, rules, files and faults."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rldk_tracking
from rldk_tracking.cli.main import COMMANDS
from rldk_tracking.demo.faults import FAULTS
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.rule import FAMILIES

RULES = builtin_rules()

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


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


def test_every_public_name_is_in_the_table() -> None:
    public = set(rldk_tracking.__all__) - {"__version__"}
    assert {name for name in public if f"`{name}`" not in TEXT and f"`{name}(" not in TEXT} == set()


def test_the_rules_are_those_of_the_catalogue() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(FAMILIES)})\.[a-z_]+)`", TEXT))
    assert named == set(RULES)


def test_every_fault_and_command_is_named() -> None:
    assert all(f"`{name}`" in TEXT for name in FAULTS)
    named = set(re.findall(r"rldk-tracking ([a-z]+)", TEXT))
    assert named <= set(COMMANDS)


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).is_file(), target
