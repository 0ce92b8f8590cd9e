"""Objects of other packages: found where they are installed, left out with one warning where they cannot be used."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.messages import packages as brought
from rldk_tracking.messages.packages import TRACKERS, extensions, leave_out, tried


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What other tests have found, and have been warned of."""
    extensions.cache_clear()
    leave_out.cache_clear()
    yield
    extensions.cache_clear()
    leave_out.cache_clear()


def entry(name: str, package: str, value: Any) -> Any:
    def load() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return SimpleNamespace(name=name, value="module:name", dist=SimpleNamespace(name=package), load=load)


def test_objects_come_by_package_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [entry("b", "beta", 2), entry("a", "beta", 1), entry("z", "alpha", 0)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: given if group == TRACKERS else [])
    assert [(found.package, found.name, found.value) for found in extensions(TRACKERS)] == [
        ("alpha", "z", 0),
        ("beta", "a", 1),
        ("beta", "b", 2),
    ]
    assert extensions(brought.RULES) == ()


def test_one_that_cannot_be_imported_costs_one_warning_that_names_its_package(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [entry("mine", "broken-package", ModuleNotFoundError("No module named 'gone'")), entry("b", "beta", 2)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: broken)
    with caplog.at_level(logging.WARNING):
        assert [found.value for found in extensions(TRACKERS)] == [2]
        assert [found.value for found in extensions(TRACKERS)] == [2]
    (told,) = caplog.messages
    assert "'mine' of the package broken-package is left out: ModuleNotFoundError: No module named 'gone'" in told


def test_one_that_fails_later_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert [tried("package", "name", lambda: 1 / 0) for _ in range(3)] == [None] * 3
        assert tried("package", "name", lambda: 5) == 5
    assert len(caplog.messages) == 1


PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1"
[tool.setuptools]
py-modules = ["{module}"]
[project.entry-points."rldk_tracking.trackers"]
{module} = "{module}:NotedBackend"
[project.entry-points."rldk_tracking.monitors"]
{module} = "{module}:NotedMonitor"
[project.entry-points."rldk_tracking.rules"]
{module} = "{module}:RULES"
"""
WORKS = """
import os
from rldk_tracking import Rule
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.probes.base import Probe
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import Tracker


class NotedTracker(Tracker):
    name = "noted"

    def log(self, metrics, step):
        self._note(f"row {step} {metrics['rldk/noted/steps']}")

    def alert(self, alert):
        self._note(f"alert {alert.rule} {alert.step}")

    def _note(self, line):
        with open(os.environ["NOTED"], "a") as file:
            file.write(line + "\\n")


class NotedBackend(Backend):
    kind = NotedTracker
    title = "Noted"

    def is_open(self):
        return "NOTED" in os.environ


class NotedProbe(Probe):
    def collect(self, data):
        data.add({"rldk/noted/steps": float(data.step)})


class NotedMonitor(Monitor):
    def make_probes(self):
        return [NotedProbe()]


RULES = [
    Rule(
        id="noted.late",
        keys=["rldk/noted/steps"],
        condition="level",
        parameters={"threshold": 2.5},
        persistence=(1, 1),
        message="late",
    )
]
"""
BROKEN = "import a_package_that_is_not_there\n"
"""What a user finds out in the middle of a night, unless it is passed over."""


def installed(folder: Path, name: str, source: str) -> Path:
    """A package that is installed into a folder of its own."""
    module, target = name.replace("-", "_"), folder / "installed"
    (folder / name).mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(PYPROJECT.format(name=name, module=module))
    (folder / name / f"{module}.py").write_text(source)
    offline = ("--no-index", "--no-build-isolation", "--no-deps", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(folder / name)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def python(packages: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(packages), str(Path(__file__).parents[2])))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
        cwd=packages,
    )


TRAIN = (
    "import sys; from pathlib import Path; from tests.trackers.training import train; train(Path(sys.argv[1]), 'none')"
)


@pytest.mark.slow
def test_a_package_that_is_installed_takes_part_in_a_training(tmp_path: Path) -> None:
    packages = installed(tmp_path, "noted-tracker", WORKS)
    done = python(packages, "-c", TRAIN, str(tmp_path / "out"), NOTED=str(tmp_path / "notes"))
    assert done.returncode == 0, done.stderr
    notes = (tmp_path / "notes").read_text().splitlines()
    assert [note for note in notes if note.startswith("row")] == [f"row {step} {step}.0" for step in range(1, 5)]
    assert "alert noted.late 3" in notes
    report = json.loads(python(packages, "-m", "rldk_tracking", "doctor", "--format", "json").stdout)
    assert {"topic": "Noted", "usable": True, "detail": "found"} in report["trackers"]


@pytest.mark.slow
def test_a_broken_package_costs_a_warning_for_each_of_its_parts_and_no_training(tmp_path: Path) -> None:
    packages = installed(tmp_path, "broken-tracker", BROKEN)
    done = python(packages, "-c", TRAIN, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "broken-tracker" in line]
    assert len(told) == 1 and "No module named 'a_package_that_is_not_there'" in told[0]
    assert list((tmp_path / "out").rglob("run.jsonl")), "the training was watched all the same"
    doctor = python(packages, "-m", "rldk_tracking", "doctor")
    assert doctor.returncode == 0 and "broken-tracker is left out" in doctor.stderr
