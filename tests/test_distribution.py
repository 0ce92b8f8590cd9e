"""What people install: the wheel and the source archive are whole, and say what is missing around them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def ran(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command printed, which must end with this code."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    printed = result.stdout + result.stderr
    if result.returncode != code and "NewConnectionError" in printed:
        pytest.skip("No package index is reached")
    assert result.returncode == code, printed
    return printed


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that is made from it."""
    for package in ("build", "twine"):
        pytest.importorskip(package, reason="needs the extra dev")
    source, to = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    listed = ran("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():  # one that is deleted and not committed is still listed
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", to, cwd=source)
    return to


@pytest.fixture(scope="module")
def bare(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which only the wheel is installed, with what it requires."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = built.glob("*.whl")
    ran(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return programs


def test_twine_finds_nothing(built: Path) -> None:
    printed = ran(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)
    assert len(re.findall("PASSED", printed)) == 2


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"rldk_tracking"}
    listed = ran("git", "ls-files", "rldk_tracking", cwd=ROOT).split()
    assert {name for name in listed if (ROOT / name).is_file() and name not in names} == set()


def test_the_source_archive_holds_the_licence_and_the_readme(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "rldk_tracking/__init__.py"} <= names


def test_the_commands_are_there(bare: Path, tmp_path: Path) -> None:
    shown = ran(bare / "python", "-m", "rldk_tracking", "--help", cwd=tmp_path)
    assert "explain" in shown
    assert shown == ran(bare / "rldk-tracking", "--help", cwd=tmp_path)
    for words in (["keys"], ["explain"], ["explain", "kl.high"]):  # their data is in the wheel
        assert "kl" in ran(bare / "rldk-tracking", *words, cwd=tmp_path)


def test_the_doctor_says_what_is_missing(bare: Path, tmp_path: Path) -> None:
    shown = ran(bare / "rldk-tracking", "doctor", cwd=tmp_path, code=1)
    assert "pip install 'rldk-tracking[mlflow] @ file://" in shown
    (line,) = {found[0] for found in re.finditer(r"pip install 'rldk-tracking\[trl\] @ file://[^']+\.whl'", shown)}
    done = ran(bare / "python", "-m", *shlex.split(line), "--dry-run", "--no-deps", cwd=tmp_path)
    assert "rldk" in done, "the line works as it stands"


def test_the_demo_names_its_extra(bare: Path, tmp_path: Path) -> None:
    shown = ran(bare / "rldk-tracking", "demo", cwd=tmp_path, code=1)
    assert shown.count("\n") == 1
    assert re.search(r"pip install 'rldk-tracking\[demo\] @ file://\S+\.whl'\n$", shown)


def test_the_callback_names_its_extra(bare: Path, tmp_path: Path) -> None:
    shown = ran(bare / "python", "-c", "from rldk_tracking import RLDKCallback", cwd=tmp_path, code=1)
    assert shown.splitlines()[-1].startswith("ImportError: rldk_tracking.RLDKCallback needs ")
    assert re.search(r"pip install 'rldk-tracking\[trl\] @ file://\S+\.whl'$", shown.rstrip())
