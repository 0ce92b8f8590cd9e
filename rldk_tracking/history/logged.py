"""What a trainer's log can hold at all, as against what only a callback in the training sees."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rldk_tracking.health.rule import Rule
from rldk_tracking.history.handwritten import NAMES
from rldk_tracking.history.run_history import JUDGED
from rldk_tracking.sources.aliases import ALIASES, EVALUATED, NAN_COUNTERS

LOGGED = frozenset(
    {
        *ALIASES.values(),
        *NAMES.values(),
        *EVALUATED.values(),
        *NAN_COUNTERS.values(),
        # Of names that stand for one key or another, see `rldk_tracking.sources.logs`.
        *("rldk/kl/ref_k3", "rldk/reward/std", "rldk/reward/group_std_mean"),
    }
)
"""Catalogue keys for which a log may have a name."""


def not_logged(rules: Iterable[Rule], ids: Collection[str]) -> tuple[str, ...]:
    """Those of some rules whose data comes in no log, so that only a training with the callback can judge them.

    Args:
        rules: the rules.
        ids: which of them are asked about.
    """
    return tuple(rule.id for rule in rules if rule.id in ids and not any(map(_may_be_logged, _keys(rule))))


def _keys(rule: Rule) -> tuple[str, ...]:
    """Its series, and others that its condition takes in their place."""
    return (*rule.keys, *rule.build({}).keys)


def _may_be_logged(key: str) -> bool:
    return key in LOGGED or key.startswith(JUDGED) or not key.startswith("rldk/")
