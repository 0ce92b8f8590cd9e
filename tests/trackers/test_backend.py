"""A backend that overrides nothing but its tracker."""

from __future__ import annotations

import argparse

import pytest

from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.memory import InMemoryTracker


class Smallest(Backend):
    kind = InMemoryTracker


class WithPackage(Smallest):
    packages = ("mine", "beside")
    install = "pip install mine"
    callback = "MineCallback"


def test_its_tracker_is_all_that_a_backend_must_have() -> None:
    backend = Smallest()
    assert (backend.name, backend.is_open(), backend.demo, backend.sources) == ("memory", False, None, "")
    assert isinstance(backend.tracker(), InMemoryTracker)
    assert backend.check({}) == (True, "found") and backend.notes({}) == []
    parser = argparse.ArgumentParser()
    backend.add_options(parser)
    arguments = parser.parse_args([])
    assert backend.named_run(arguments) is None
    assert backend.approved({"id": "1"}, arguments) == ({"id": "1"}, {})
    assert backend.runs("a/b") == ["a/b"]


def test_a_callback_that_transformers_does_not_have_is_nobodys() -> None:
    pytest.importorskip("transformers")
    assert not Smallest().joins(object()) and not WithPackage().joins(object())


def test_what_is_missing_is_said_with_what_to_install() -> None:
    assert WithPackage().check({"mine": None, "beside": "1"}) == (False, "pip install mine")
    assert WithPackage().check({"mine": "1"}) == (True, "report_to='memory'")
