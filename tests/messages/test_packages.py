"""Each extra brings what its advice promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from rldk_tracking.messages.packages import EXTRAS, advice, install_line

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
ROOT = Path(__file__).resolve().parents[2]
CALL = r"""install_line\(((?:["'][\w-]+["'](?:, )?)+)\)"""
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
    lists = [names for text in texts for names in re.findall(r"""(?:rldk-tracking|["']\.)\[([\w,-]+)\]""", text)]
    lists += [
        ",".join(re.findall(r"""["'](\w[\w-]*)["']""", found)) for text in texts for found in re.findall(CALL, text)
    ]
    named = {extra for names in lists for extra in names.split(",")}
    assert named and named <= set(optional)


def test_the_sentence_names_subject_package_and_extra() -> None:
    error = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert advice("This", error) == f"This needs torch, which is not installed: {install_line('trl')}"
    assert str(advice("This", error, "demo")).endswith(install_line("demo"))


@pytest.mark.parametrize(
    "error", [ImportError("cannot import name 'x'", name="torch"), ModuleNotFoundError("", name="json2")]
)
def test_another_failed_import_is_a_fault_of_its_own(error: ImportError) -> None:
    assert advice("This", error) is None


def test_a_public_name_without_its_package_says_what_to_install() -> None:
    code = "import sys; sys.modules['transformers'] = None\nfrom rldk_tracking import RLDKCallback"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stderr.splitlines()[-1] == (
        "ImportError: rldk_tracking.RLDKCallback needs transformers, which is not installed: " + install_line("trl")
    )


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'rldk-tracking[mlflow]'"),
        ({"url": "FOLDER", "dir_info": {"editable": True}}, "pip install -e 'PATH[mlflow]'"),
        ({"url": "FOLDER", "dir_info": {}}, "pip install 'rldk-tracking[mlflow] @ FOLDER'"),
        ({"url": "FOLDER/gone.whl", "archive_info": {}}, "pip install 'rldk-tracking[mlflow]'"),
        (
            {"url": "https://a.test/r.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            "pip install 'rldk-tracking[mlflow] @ git+https://a.test/r.git@12ab'",
        ),
    ],
    ids=["index", "editable checkout", "checkout", "archive that is gone", "repository"],
)
def test_the_line_installs_from_where_the_package_came(
    origin: dict[str, object] | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if origin is None else json.dumps(origin).replace("FOLDER", tmp_path.as_uri())
    installed = SimpleNamespace(read_text=lambda name: text if name == "direct_url.json" else None)
    monkeypatch.setattr(metadata, "distribution", lambda name: installed)
    expected = expected.replace("FOLDER", tmp_path.as_uri()).replace("PATH", str(tmp_path))
    assert install_line.__wrapped__("mlflow") == expected


def test_a_package_that_is_only_on_the_path_is_installed_from_its_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert install_line.__wrapped__("demo", "wandb") == f"pip install -e '{ROOT}[demo,wandb]'"
