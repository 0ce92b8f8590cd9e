"""The conditions on a training, or a reward function, of which nothing is heard any more.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/run/limit_seconds | s | host | max over ranks
        For how long nothing may be heard in the phase that the training is in. Judged beside it, as the silence.
        = max(threshold, times x 99th percentile of how long the phase took in earlier steps), or `first` without any
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from rldk_tracking.health.conditions.base import Condition, Finding, Row, condition
from rldk_tracking.health.detectors import remembered

LIMIT_KEY = "rldk/run/limit_seconds"
NAME = "<name>"
"""In a key, for the name of a reward function."""


@condition("silence")
class Silence(Condition):
    """Breached where nothing was heard of a training for longer than the phase that it is in may take.

    The limit follows from how long this run's own phases took, so it is computed where they are timed, in the training
    process, by `rldk_tracking.journal.heartbeat`; the row carries it. A row without a limit is never a breach.

    Raises:
        ValueError: a number is not above 0, or `critical` is below 1.
    """

    threshold: Annotated[float, "seconds below which no silence is a breach"]
    times: Annotated[float, "how often the 99th percentile of the phase's own durations may pass"] = 10.0
    first: Annotated[
        float, "limit in seconds for a phase that no earlier step had, as for a first compilation or evaluation"
    ] = 1800.0
    critical: Annotated[float, "how often the limit may pass before the breach is critical"] = 2.0
    stacks: Annotated[
        bool,
        "whether the training process writes down where its threads stand shortly before the limit. A thread does it "
        "that sleeps, and reads the stacks while it has the interpreter to itself; Python's own timer "
        "(faulthandler.dump_traceback_later) is left alone, as it reads the stacks of threads that run, which ends the "
        "process in one of a few hundred readings",
    ] = True

    def __post_init__(self) -> None:
        if not min(self.threshold, self.times, self.first) > 0 or not self.critical >= 1:
            raise ValueError("threshold, times and first must be above 0, and critical at least 1.")

    def judge(self, step: int, row: Row) -> Finding | None:
        """Compare the silence with the limit that the row carries."""
        silent = self.read(row)
        if silent is None:
            return None
        limit = row.get(LIMIT_KEY)
        breached = limit is not None and silent > limit
        critical = limit is not None and silent > self.critical * limit
        return Finding(breached, not breached, silent, limit, critical, key=self.key, judged=limit is not None)


@lru_cache(maxsize=256)
def named(series: tuple[str, ...], before: str, after: str) -> list[tuple[str, str]]:
    """Of a row's series those between two texts, after the name that stands between them."""
    found = [key for key in series if key.startswith(before) and key.endswith(after)]
    return [(key[len(before) : -len(after)], key) for key in found]


@condition("silent_function")
class SilentFunction(Condition):
    """Breached where a reward function has scored nothing in so many rollouts in a row.

    Its series is the share of completions that a function did not score, with `<name>` for the function's name.
    """

    reads_others = True  # of every function, whatever its name

    rollouts: Annotated[
        int, "how many in a row. A function that belongs to a part of the data has none of it in some of them"
    ] = 20
    silent: dict[str, float] = remembered(dict)
    """Function to the rollouts since it scored something."""

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count on for each function of the row."""
        before, _, after = self.keys[0].partition(NAME)
        shares = {name: row[key] for name, key in named(tuple(row), before, after)}
        if not shares:
            return None
        for name, share in shares.items():
            self.silent[name] = self.silent.get(name, 0.0) + 1.0 if share >= 1.0 else 0.0
        name = max(self.silent, key=lambda one: self.silent[one])
        longest = self.silent[name]
        functions = ", ".join(one for one, count in self.silent.items() if count >= self.rollouts)
        return Finding(
            breached=longest >= self.rollouts,
            clear=longest < self.rollouts,
            value=longest,
            threshold=float(self.rollouts),
            evidence={"functions": functions or name},
            key=f"{before}{name}{after}",
        )
