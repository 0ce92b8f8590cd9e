"""The check that the tox environments together leave nothing unrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("union.py")


def check(folder: Path, *environments: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), *environments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CI": ci})


def write(folder: Path, name: str, ran: list[str], skipped: dict[str, str]) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"ran": ran, "skipped": skipped}))


@pytest.mark.parametrize(
    ("ran_elsewhere", "skipped", "code"),
    [
        (["tests/a.py::one"], "tests/a.py::one", 0),
        (["tests/a.py::two"], "tests/a.py::one", 1),
        (["tests/a.py::one[x]"], "tests/a.py", 0),
        (["tests/b.py::one"], "tests/a.py", 1),
        ([], "tests/a.py::one", 1),
    ],
)
def test_what_one_skips_another_must_run(tmp_path: Path, ran_elsewhere: list[str], skipped: str, code: int) -> None:
    write(tmp_path, "ppo", ran_elsewhere, {})
    write(tmp_path, "latest", ["tests/c.py::x"], {skipped: "no PPO here"})
    result = check(tmp_path, "ppo", "latest")
    assert result.returncode == code
    assert ("no PPO here" in result.stdout) == bool(code)


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_what_the_machine_lacks_fails_in_ci_only(tmp_path: Path, ci: str, code: int) -> None:
    for name in ("ppo", "latest"):
        write(tmp_path, name, [], {"tests/a.py::one": "Skipped: Chromium is not installed (Debian: ...)"})
    result = check(tmp_path, "ppo", "latest", ci=ci)
    assert result.returncode == code
    assert "tests/a.py::one" in result.stdout


def test_one_environment_alone_proves_nothing(tmp_path: Path) -> None:
    write(tmp_path, "latest", [], {"tests/a.py": "no PPO here"})
    result = check(tmp_path, "ppo", "latest")
    assert result.returncode == 0
    assert "no results of ppo" in result.stdout


def test_results_hold_what_ran_and_what_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_runs(): pass\n"
        "def test_skips(): pytest.skip('not here')\n"
        "def test_fails(): assert False\n"
    )
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('no_such_module', reason='absent')\n")
    code = "import os, sys, pytest; os.environ['RLDK_TEST_RESULTS'] = 'r.json'; sys.exit(pytest.main(['-q', '.']))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["ran"] == ["test_some.py::test_runs"]
    assert set(results["skipped"]) == {"test_some.py::test_skips", "test_whole.py"}
    assert "not here" in results["skipped"]["test_some.py::test_skips"]


@pytest.mark.parametrize("part", [["-m", "not slow"], ["-k", "runs"]], ids=" ".join)
def test_a_part_of_the_tests_leaves_the_results_of_all_alone(tmp_path: Path, part: list[str]) -> None:
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_some.py").write_text("def test_runs(): pass\n")
    (tmp_path / "r.json").write_text("of all")
    environment = {**os.environ, "RLDK_TEST_RESULTS": str(tmp_path / "r.json")}
    command = [sys.executable, "-m", "pytest", "-q", *part, "."]
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    assert (tmp_path / "r.json").read_text() == "of all"
