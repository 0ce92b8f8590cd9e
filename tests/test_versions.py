"""The oldest releases that pyproject promises are tested, and extras leave what people train with alone."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.doctor import TESTED

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "tests" / "versions" / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]


def pinned_in(environment: str) -> dict[str, str]:
    """Package to version of the tox environment."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    return dict(re.findall(rf"^{environment}: ([\w-]+)==([\d.]+)$", settings["testenv"]["deps"], re.MULTILINE))


def oldest() -> dict[str, str]:
    """Package to version, the oldest that is tested: trainers in the suite of the oldest TRL."""
    text = (REQUIREMENTS / f"{TESTED[0]}.txt").read_text(encoding="utf-8")
    return pinned_in("oldest") | dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))


@pytest.mark.parametrize("package", ["trl", "transformers", "accelerate", "peft", "wandb"])
def test_the_oldest_supported_release_is_tested(package: str) -> None:
    floor = re.search(rf'"{package}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert floor is not None
    pinned = oldest()[package]
    width = floor.group(1).count(".") + 1
    assert pinned.split(".")[:width] == floor.group(1).split(".")


def test_what_doctor_calls_tested_is() -> None:
    assert set(TESTED[:-2]) == {path.stem for path in REQUIREMENTS.glob("*.txt")}
    assert TESTED[-2] == pinned_in("ppo")["trl"]
    assert set(TESTED) == {path.stem for path in (ROOT / "tests" / "versions" / "results").glob("*.json")}
    for path in REQUIREMENTS.glob("*.txt"):
        assert f"trl=={path.stem}\n" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/stability.md", "docs/how-to/own-environment.md"])
def test_pages_name_the_oldest_release(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for package, name in (("trl", "TRL"), ("transformers", "transformers")):
        assert re.search(rf"{name} (from )?{re.escape(oldest()[package])}\b", text), name


def test_saved_views_are_tested_with_the_first_mlflow_that_has_them() -> None:
    assert oldest()["mlflow"].startswith("3.15.")


def brought_by(extra: str) -> list[str]:
    """What an extra asks for, with what the extras that it names ask for."""
    listed = EXTRAS[extra] if extra else PROJECT["project"]["dependencies"]
    named = [re.fullmatch(r"rldk-tracking\[([\w,]+)\]", requirement) for requirement in listed]
    others = [name for match in named if match for name in match[1].split(",")]
    own = [requirement for requirement, match in zip(listed, named, strict=True) if not match]
    return own + [requirement for name in others for requirement in brought_by(name)]


@pytest.mark.parametrize("extra", ["", "report", "mlflow", "wandb", "trl"])
def test_what_goes_into_a_training_environment_pins_nothing(extra: str) -> None:
    assert [requirement for requirement in brought_by(extra) if re.search(r"==|<|~=", requirement)] == []


@pytest.mark.parametrize("extra", ["", "report", "mlflow", "wandb"])
def test_a_tracker_asks_for_no_torch(extra: str) -> None:
    brought = {re.split(r"[\[<>=~]", requirement)[0] for requirement in brought_by(extra)}
    assert brought and not brought & {"torch", "transformers", "trl", "accelerate", "rldk-tracking"}


def test_extras_are_followed() -> None:
    assert "torch==2.13.0" in brought_by("dev")
