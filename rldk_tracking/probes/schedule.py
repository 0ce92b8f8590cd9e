"""What each change of the learning rate did.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/lr/change | 1 | optimizer
        By what factor the schedule changed the learning rate.
        = rate at the change / rate before it
    rldk/lr/change_step | steps | optimizer
        When the schedule changed the learning rate.
        = its step
    rldk/lr/{loss,kl,grad_norm}_response | standard errors | optimizer
        How far the {stat} left its trend when the schedule changed the learning rate: 2 is little, 5 is much.
        = after a jump, the mean of up to 10 rows minus the line through up to 20 rows before it; after a smooth change,
        the gap between the lines on its two sides; over the standard error

Most schedules move the rate a little at every step, and no series can answer to that. A change is what a smooth
schedule does not do, or what it has done by the time that an answer can be seen:

| kind | when |
|---|---|
| rise, drop | the rate moves by a tenth at once, and by three times what it moved the row before |
| warm_up_end | it rose for some rows and rises no more |
| halved | it has sunk to half of what it was at the last change or since, WINDOW rows or more after that |
| zero | it has sunk to 0 |

KL, loss and gradient norm have trends of their own, above all in a warm-up. So a line is fitted through the rows on
each side, none of them beyond a neighbouring change. Where the rate jumped (rise, drop), the response is the mean of up
to WINDOW rows after the change minus where the line through up to 2 WINDOW rows before it would have been at them.
Where the rate moved smoothly (the other kinds) a series may bend, but has no reason to jump: the response is the gap
between the two lines, through WINDOW rows each, at the change. Either way it is divided by the standard error that
follows from the scatter of the rows about their lines. The row of the change belongs to neither: its loss was measured
before the new rate moved the weights, or, with several epochs, partly so. Rows are not quite independent, as the error
takes them to be: 2 is little and 5 is much.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

SERIES = {
    "loss": ("rldk/train/loss",),
    "kl": ("rldk/kl/ref_k3", "rldk/kl/ref_k1"),
    "grad_norm": ("rldk/grad/norm",),
}
"""What may answer: the first of its keys that a row has."""
WINDOW = 10
"""Rows on each side of a change; of a trend that is followed beyond it, twice as many before."""
LEAST = 5
"""Rows without which a side has no line with a scatter about it."""

Kind = Literal["rise", "drop", "warm_up_end", "halved", "zero"]
JUMPS = ("rise", "drop")
ROUNDING = 1e-9
"""Share of a series' size below which a scatter or a move is rounding."""


@dataclass(frozen=True, slots=True)
class Side:
    """A series on one side of a change, and the line through it by least squares.

    Attributes:
        rows, mean: how many values, and their mean.
        centre: their mean distance from the change, in steps; below 0 before it.
        spread: sum of the squared deviations of the distances from it.
        slope: of the line, per step.
        variance: of the values about the line (n - 2).
    """

    rows: int
    mean: float
    centre: float
    spread: float
    slope: float
    variance: float

    @classmethod
    def of(cls, points: Sequence[tuple[int, float]], change: int) -> Side:
        """Of (step, value), LEAST at least, beside a change at a step."""
        rows = len(points)
        mean = statistics.fmean(value for _, value in points)
        centre = statistics.fmean(step - change for step, _ in points)
        spread = math.fsum((step - change - centre) ** 2 for step, _ in points)
        slope = math.fsum((step - change - centre) * value for step, value in points) / spread
        squares = math.fsum((value - mean - slope * (step - change - centre)) ** 2 for step, value in points)
        if squares <= rows * (ROUNDING * max(abs(value) for _, value in points)) ** 2:
            squares = 0.0
        return cls(rows, mean, centre, spread, slope, squares / (rows - 2))

    def at(self, distance: float) -> tuple[float, float]:
        """The line at a distance from the change, in steps, and the variance of its estimate there."""
        away = distance - self.centre
        return self.mean + self.slope * away, self.variance * (1 / self.rows + away**2 / self.spread)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the rate and what followed. A series that was not there, or for too few rows, is in neither side."""

    step: int
    kind: Kind
    rate_before: float
    rate: float
    before: Mapping[str, Side]
    after: Mapping[str, Side]

    def response(self, name: str) -> float | None:
        """In standard errors; None where a side is missing, or where both stand still at different values."""
        if name not in self.before or name not in self.after:
            return None
        before, after = self.before[name], self.after[name]
        distance = after.centre if self.kind in JUMPS else 0.0
        (path, error_before), (found, error_after) = before.at(distance), after.at(distance)
        moved, error = found - path, math.sqrt(error_before + error_after)
        if abs(moved) <= ROUNDING * max(abs(found), abs(path)):
            return 0.0
        return moved / error if error > 0 else None

    def metrics(self) -> dict[str, float]:
        """The keys that exist for it."""
        found = {"rldk/lr/change_step": float(self.step)}
        if self.rate_before > 0:
            found["rldk/lr/change"] = self.rate / self.rate_before
        responses = {f"rldk/lr/{name}_response": self.response(name) for name in SERIES}
        return found | {key: value for key, value in responses.items() if value is not None}

    def cells(self) -> list[str | float | None]:
        """Its row of the table under CHANGE_COLUMNS."""
        row: list[str | float | None] = [self.step, self.kind, self.rate_before, self.rate]
        for name in SERIES:
            row += [side[name].mean if name in side else None for side in (self.before, self.after)]
            row.append(self.response(name))
        return row


CHANGE_COLUMNS = (
    *("step", "kind", "rate before", "rate"),
    *(f"{name} {what}" for name in SERIES for what in ("before", "after", "response")),
)
"""Of the table of changes."""
