"""Each extra brings what its advice promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rldk_tracking.messages.packages import EXTRAS, advice

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
ROOT = Path(__file__).resolve().parents[2]
COMES_WITH = {"datasets": "trl", "tokenizers": "transformers"}
"""Packages that another one requires."""


def brought(extra: str) -> set[str]:
    """Names of the distributions that an extra asks for, those of the extras in it included."""
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found: set[str] = set()
    for requirement in optional[extra]:
        name, others = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()
        found |= {name, *(package for other in (others or "").split(",") if other for package in brought(other))}
    return found


@pytest.mark.parametrize(("module", "extra"), EXTRAS.items())
def test_an_extra_brings_the_package(module: str, extra: str) -> None:
    assert COMES_WITH.get(module, module).replace("_", "-") in brought(extra)


def test_the_demo_brings_all_that_it_imports() -> None:
    assert {"torch", "transformers", "trl", "accelerate", "mlflow", "tqdm"} <= brought("demo")


def test_every_extra_that_the_package_or_its_documentation_names_is_there() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "rldk_tracking").rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    lists = [names for text in texts for names in re.findall(r"""(?:rldk-tracking|["']\.)\[([\w,]+)\]""", text)]
    named = {extra for names in lists for extra in names.split(",")}
    assert named and named <= set(optional)


def test_the_sentence_names_subject_package_and_extra() -> None:
    error = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert advice("This", error) == "This needs torch, which is not installed: pip install 'rldk-tracking[trl]'"
    assert str(advice("This", error, "demo")).endswith("'rldk-tracking[demo]'")


@pytest.mark.parametrize(
    "error", [ImportError("cannot import name 'x'", name="torch"), ModuleNotFoundError("", name="json2")]
)
def test_another_failed_import_is_a_fault_of_its_own(error: ImportError) -> None:
    assert advice("This", error) is None


def test_a_public_name_without_its_package_says_what_to_install() -> None:
    code = "import sys; sys.modules['transformers'] = None\nfrom rldk_tracking import RLDKCallback"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stderr.splitlines()[-1] == (
        "ImportError: rldk_tracking.RLDKCallback needs transformers, which is not installed: "
        "pip install 'rldk-tracking[trl]'"
    )
