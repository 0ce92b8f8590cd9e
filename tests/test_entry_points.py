"""Objects of other packages: found where they are installed, left out with one warning where they cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking import entry_points
from rldk_tracking.entry_points import TRACKERS, extensions, leave_out, tried


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
    assert extensions(entry_points.RULES) == ()


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
