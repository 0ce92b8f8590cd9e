"""The oldest releases that pyproject promises are the ones that the tests run with."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def oldest() -> dict[str, str]:
    """Package to version of the tox environment."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    pins = re.findall(r"^oldest: ([\w-]+)==([\d.]+)$", settings["testenv"]["deps"], re.MULTILINE)
    return dict(pins)


@pytest.mark.parametrize("package", ["trl", "transformers", "accelerate", "peft", "wandb"])
def test_the_oldest_supported_release_is_tested(package: str) -> None:
    floor = re.search(rf'"{package}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert floor is not None
    pinned = oldest()[package]
    width = floor.group(1).count(".") + 1
    assert pinned.split(".")[:width] == floor.group(1).split(".")


def test_saved_views_are_tested_with_the_first_mlflow_that_has_them() -> None:
    assert oldest()["mlflow"].startswith("3.15.")
