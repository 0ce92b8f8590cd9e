"""What rules can watch for. A rule names its condition; parameters are those of the condition's constructor."""

from __future__ import annotations

from rldk_tracking.health.conditions.base import Condition
from rldk_tracking.health.conditions.changes import Drop, Jump
from rldk_tracking.health.conditions.functions import SilentFunction
from rldk_tracking.health.conditions.levels import (
    BelowZero,
    ConstantZero,
    ExpressionCondition,
    FirstValue,
    Level,
    Levels,
)
from rldk_tracking.health.conditions.preference import NothingLearned, ReferenceApart
from rldk_tracking.health.conditions.rate_response import RateResponse
from rldk_tracking.health.conditions.reward_signal import Hacking, TiedGroups
from rldk_tracking.health.conditions.shifts import Growth, Shift, Slowdown
from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.health.conditions.start import Collapse, FromStart, UnpaidDrift

CONDITIONS: dict[str, type[Condition]] = {
    "below_zero": BelowZero,
    "collapse": Collapse,
    "drop": Drop,
    "first": FirstValue,
    "from_start": FromStart,
    "growth": Growth,
    "hacking": Hacking,
    "jump": Jump,
    "level": Level,
    "levels": Levels,
    "nothing_learned": NothingLearned,
    "rate_response": RateResponse,
    "reference_apart": ReferenceApart,
    "shift": Shift,
    "silence": Silence,
    "silent_function": SilentFunction,
    "slowdown": Slowdown,
    "still": ConstantZero,
    "ties": TiedGroups,
    "unpaid_drift": UnpaidDrift,
    "written": ExpressionCondition,
}
