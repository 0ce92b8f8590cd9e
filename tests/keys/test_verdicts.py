"""Series of what the rules say, and of these diagnostics."""

from __future__ import annotations

from rldk_tracking.keys.verdicts import KEYS


def test_a_risk_is_better_when_it_is_lower() -> None:
    directions = {key.name: key.direction for key in KEYS}
    assert directions["rldk/health/score"] == "higher"
    assert {directions[name] for name in directions if name.endswith("_risk")} == {"lower"}


def test_of_every_group_there_may_be_a_limit() -> None:
    assert "rldk/<group>/limit" in {key.name for key in KEYS}
