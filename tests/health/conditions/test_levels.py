"""Several limits at once, and a share of what there is."""

from __future__ import annotations

import pytest

from rldk_tracking.health.conditions.levels import Levels


def test_the_worst_key_in_proportion_is_reported() -> None:
    levels = Levels(("a", "b"), limits={"a": 1.0, "b": 10.0})
    finding = levels.judge(0, {"a": 1.5, "b": 40.0})
    assert (finding.breached, finding.key, finding.value, finding.threshold) == (True, "b", 40.0, 10.0)
    assert finding.evidence == {"a": 1.5}
    assert not levels.judge(1, {"a": 1.0}).breached
    assert levels.judge(2, {"c": 1.0}) is None


@pytest.mark.parametrize("limits", [{}, {"a": 0.0}, {"z": 1.0}])
def test_limits_must_be_of_the_rules_keys(limits) -> None:
    with pytest.raises(ValueError, match="limits"):
        Levels(("a",), limits=limits)
