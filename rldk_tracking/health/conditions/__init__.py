"""What rules can watch for. A rule names its condition; parameters are those of the condition's constructor."""

from __future__ import annotations

from rldk_tracking.health.conditions.base import Condition
from rldk_tracking.health.conditions.collapse import Collapse
from rldk_tracking.health.conditions.divergence import UnpaidDrift
from rldk_tracking.health.conditions.drop import Drop
from rldk_tracking.health.conditions.estimate import BelowZero
from rldk_tracking.health.conditions.growth import Growth
from rldk_tracking.health.conditions.hacking import Hacking
from rldk_tracking.health.conditions.jump import Jump
from rldk_tracking.health.conditions.level import Level
from rldk_tracking.health.conditions.levels import Levels
from rldk_tracking.health.conditions.motion import RateResponse, Still
from rldk_tracking.health.conditions.shift import Shift
from rldk_tracking.health.conditions.signal import Ties
from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.health.conditions.slowdown import Slowdown
from rldk_tracking.health.conditions.start import First, FromStart
from rldk_tracking.health.conditions.written import Written

CONDITIONS: dict[str, type[Condition]] = {
    "below_zero": BelowZero,
    "collapse": Collapse,
    "drop": Drop,
    "first": First,
    "from_start": FromStart,
    "growth": Growth,
    "hacking": Hacking,
    "jump": Jump,
    "level": Level,
    "levels": Levels,
    "rate_response": RateResponse,
    "shift": Shift,
    "silence": Silence,
    "slowdown": Slowdown,
    "still": Still,
    "ties": Ties,
    "unpaid_drift": UnpaidDrift,
    "written": Written,
}
