"""Series of the machine."""

from __future__ import annotations

from rldk_tracking.keys.key import GIB
from rldk_tracking.keys.resources import KEYS


def test_they_are_measured_on_the_host() -> None:
    assert {key.source for key in KEYS} == {"host"}


def test_of_the_memory_the_fullest_rank_counts() -> None:
    assert {key.reduce for key in KEYS if key.unit == GIB} == {"max"}
