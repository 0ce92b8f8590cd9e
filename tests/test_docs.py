"""The documentation says what is there, its code runs, and the site is built from it without a warning."""

from __future__ import annotations

import ast
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rldk_tracking
from rldk_tracking.cli.main import COMMANDS
from rldk_tracking.demo import grpo_trainer
from rldk_tracking.demo.faults import FAULTS
from rldk_tracking.health.actions import action
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.rule import FAMILIES
from rldk_tracking.journal.options import Options
from rldk_tracking.metrics.keys import CATALOGUE

RULES = builtin_rules()
ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
BLOCKS = [
    (page, language, block)
    for page, text in PAGES.items()
    for language, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
]
PYTHON = [(page, block) for page, language, block in BLOCKS if language == "python"]


def numbered(blocks: list[tuple[str, str]]) -> list[str]:
    """A name for each block: its page, and the how manieth of the page it is."""
    pages = [page for page, _ in blocks]
    return [f"{page}-{pages[:index].count(page) + 1}" for index, page in enumerate(pages)]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=numbered(PYTHON))
def test_python_parses_and_its_names_exist(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module == "rldk_tracking":
            assert all(alias.name in rldk_tracking.__all__ for alias in node.names)


def yaml_of(page: str) -> str:
    """The one YAML file of a page."""
    (text,) = (block for name, language, block in BLOCKS if (name, language) == (page, "yaml"))
    return text


def test_the_settings_file_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rldk.yaml").write_text(yaml_of("how-to/own-environment.md"))
    assert Options().settings().on_critical == "stop"


WHOLE = [(page, block) for page, block in PYTHON if "..." not in block]


@pytest.mark.parametrize(("page", "block"), WHOLE, ids=numbered(WHOLE))
def test_python_without_gaps_runs(page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in ("RLDK_SLACK_WEBHOOK_URL", "PAGER_URL"):
        monkeypatch.setenv(variable, "https://hooks.example.org/1")
    (tmp_path / "rules.yaml").write_text(yaml_of("how-to/own-rules.md"))
    (tmp_path / "OUTPUT_DIR").mkdir()
    rows = [{"step": step, "rldk/reward/mean": 0.1 * (step % 3)} for step in range(1, 40)]
    (tmp_path / "OUTPUT_DIR" / "run.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    given = {name: getattr(rldk_tracking, name) for name in rldk_tracking.__all__}
    if "trainer" in block:
        given["trainer"] = grpo_trainer(tmp_path / "trained")
    action("page_me")(print)
    exec(compile(block, page, "exec"), given)  # noqa: S102  what the documentation says is to be run


def test_every_fault_of_the_demo_is_named() -> None:
    assert {name for name in FAULTS if f"`{name}`" not in PAGES["start.md"]} == set()


def test_commands_are_those_that_there_are() -> None:
    text = "\n".join(PAGES.values())
    assert set(re.findall(r"rldk-tracking ([a-z]+)", text)) <= set(COMMANDS)
    assert set(re.findall(r"mlflow:|wandb:", text)) == {"mlflow:", "wandb:"}


def test_rules_and_series_that_are_named_are_there() -> None:
    families = "|".join(FAMILIES)
    for page, text in PAGES.items():
        # In backticks; of others' own, such as `team.slow`, the family is none of ours.
        assert set(re.findall(rf"`((?:{families})\.[a-z_]+)`", text)) <= {*RULES, "run.jsonl"}, page
        for name in re.findall(r"`(rldk/[a-z_0-9/]+)`", text):
            assert _is_known(name.rstrip("/")), f"{page}: {name}"


def _is_known(name: str) -> bool:
    from rldk_tracking.metrics.keys import lookup

    outside = ("rldk/charts", "rldk/checkpoint/layers", "rldk/report", "rldk/lr/changes", "rldk/alerts")
    is_group = any(key.startswith(f"{name}/") for key in CATALOGUE)
    return name == "rldk" or is_group or lookup(name) is not None or name.startswith(outside)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    assert {page for page in PAGES if f"- {page}\n" not in navigation} == set()


def test_paths_that_are_named_are_there() -> None:
    for page, text in PAGES.items():
        for path in re.findall(r"(?<![\w/])((?:examples|notebooks|tests|docs)/[\w/]+\.(?:py|ipynb|md))", text):
            assert (ROOT / path).is_file(), f"{page}: {path}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that mkdocs makes."""
    for package in ("mkdocs", "material", "mkdocs_gen_files", "mkdocstrings"):
        pytest.importorskip(package, reason="needs the extra docs")
    to = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(to)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr
    return to


@pytest.mark.slow
class TestSite:
    """What is on its pages."""

    def text(self, site: Path, page: str) -> str:
        return html.unescape((site / page / "index.html").read_text(encoding="utf-8"))

    def test_the_rules_are_those_of_the_catalogue(self, site: Path) -> None:
        assert set(re.findall(r'<h3 id="([a-z]+\.[a-z_]+)"', self.text(site, "reference/rules"))) == set(RULES)

    def test_every_series_is_there(self, site: Path) -> None:
        page = self.text(site, "reference/keys")
        assert {name for name in CATALOGUE if f"<code>{name}</code>" not in page} == set()

    def test_every_public_name_is_there(self, site: Path) -> None:
        page = self.text(site, "reference/python")
        public = set(rldk_tracking.__all__) - {"__version__"}
        assert {name for name in public if not re.search(rf'<h3 id="rldk_tracking\.{name}"', page)} == set()

    def test_every_command_is_there(self, site: Path) -> None:
        assert set(re.findall(r'<h2 id="(\w+)"', self.text(site, "reference/cli"))) == set(COMMANDS)

    def test_nothing_is_fetched_from_elsewhere(self, site: Path) -> None:
        for page in site.rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            assert re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="https?://', text) == [], page
