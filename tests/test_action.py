"""The GitHub Action's steps, run in bash as a runner does, against logs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_replay import log

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".github" / "actions" / "judge"
ACTION: dict[str, Any] = yaml.safe_load((FOLDER / "action.yml").read_text(encoding="utf-8"))
INSTALL, JUDGE = ACTION["runs"]["steps"]


def ran(step: dict[str, Any], folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """A step with its inputs, as a runner runs it; the command is this package's."""
    given = {name: about.get("default", "") for name, about in ACTION["inputs"].items()} | inputs
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    scripts = {
        "rldk-tracking": f'exec {shlex.quote(sys.executable)} -m rldk_tracking "$@"',
        "python": f'printf "%s\\n" "$@" > {shlex.quote(str(folder / "python.txt"))}',
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_ACTION_PATH": str(FOLDER),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GITHUB_OUTPUT": str(folder / "output.txt"),
        "RUNNER_TEMP": str(folder),
    }
    script = folder / "step.sh"
    script.write_text(step["run"])
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        env=os.environ | environment | variables,
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_no_input_stands_within_a_script() -> None:
    assert (ACTION["runs"]["using"], INSTALL["shell"], JUDGE["shell"]) == ("composite", "bash", "bash")
    assert "${{" not in INSTALL["run"] + JUDGE["run"]
    named = {
        found for step in (INSTALL, JUDGE) for value in step["env"].values() for found in re.findall("[a-z-]+", value)
    }
    assert named - {"inputs"} == set(ACTION["inputs"])


@pytest.mark.parametrize("extras", ["", "mlflow,report"])
def test_it_installs_the_repository_that_it_came_with(extras: str, tmp_path: Path) -> None:
    assert ran(INSTALL, tmp_path, extras=extras).returncode == 0
    words = (tmp_path / "python.txt").read_text().splitlines()
    place, bracket, named = words[-1].partition("[")
    assert words[:3] == ["-m", "pip", "install"]
    assert bracket + named == (f"[{extras}]" if extras else ""), "pip knows no empty brackets"
    assert 'name = "rldk-tracking"' in (Path(place) / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log that is critical; its name would be two words, or run, if it were not quoted."""
    folder = tmp_path_factory.mktemp("runner")
    log(folder / "my $(touch ran).jsonl", [0.2 + 0.005 * step for step in range(20)] + [float("nan")])
    return folder


def test_a_critical_log_fails_the_step_and_is_on_its_page(judged: Path) -> None:
    done = ran(JUDGE, judged, sources="my $(touch ran).jsonl\n")
    assert (done.returncode, done.stdout, done.stderr) == (1, "The verdict is critical.\n", "")
    page = (judged / "summary.md").read_text()
    assert page.startswith("## critical: my $(touch ran).jsonl (21 rows)\n- step 21 (row 20) critical ")
    assert (judged / "output.txt").read_text() == "verdict=critical\n"
    assert not (judged / "ran").exists()


def test_the_verdicts_that_fail_are_an_input(judged: Path) -> None:
    assert ran(JUDGE, judged, sources="my $(touch ran).jsonl", **{"fail-on": "warning unknown"}).returncode == 0
    assert ran(JUDGE, judged, sources="my $(touch ran).jsonl", **{"fail-on": ""}).returncode == 0
    wrong = ran(JUDGE, judged, sources="my $(touch ran).jsonl", **{"fail-on": "critical,warning"})
    assert wrong.returncode == 1 and "critical,warning is none of critical, warning and unknown" in wrong.stdout


def test_what_cannot_be_read_fails_whatever_is_asked_for(tmp_path: Path) -> None:
    done = ran(JUDGE, tmp_path, sources="no-such.jsonl", **{"fail-on": ""})
    assert done.returncode == 1
    assert "::error::no-such.jsonl: no such file or folder." in done.stdout
    assert (tmp_path / "output.txt").read_text() == "verdict=none\n"
