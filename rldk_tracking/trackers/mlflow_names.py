"""Metric names that MLflow takes: one illegal name in a batch, and it stores nothing of the batch. Names of a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from rldk_tracking.messages.arguments import text

LONGEST = 250


class Names:
    """Keys to names, each key always to the same one.

    Allowed are letters, digits, `_ - . : /` and blank, in a path without empty, `.` or `..` parts, 250 characters long.
    Two keys that come out the same are told apart by a number, in the order in which they are first seen.
    """

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, key: str) -> str:
        name = self._name_of.get(key)
        if name is None:
            name = self._name_of[key] = self._unused(sanitised(key))
            self._taken.add(name)
        return name

    def finite(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics under their names, without those that are no finite number."""
        return {self[key]: value for key, value in metrics.items() if math.isfinite(value)}

    def _unused(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self._taken:
            suffix = f"_{number}"
            name, number = wanted[: LONGEST - len(suffix)] + suffix, number + 1
        return name


def sanitised(key: str) -> str:
    """The nearest legal name: illegal characters become `_`, empty path parts go, parts of dots alone become `_`."""
    parts = [part for part in re.sub(r"[^\w./\- :]", "_", str(key)).split("/") if part]
    legal = "/".join(part if part.strip(".") else "_" for part in parts)
    return legal[:LONGEST].rstrip("/") or "_"


def check_arguments(run_id: object, tracking_uri: object, experiment: object) -> None:
    """Of `MLflowTracker`.

    Raises:
        TypeError, ValueError: one cannot be; the message says what to write.
    """
    text("run_id", run_id, "a run's id", '"<32 digits>"')
    text("tracking_uri", tracking_uri, "a server's address", '"http://127.0.0.1:5000"')
    text("experiment", experiment, "an experiment's name", '"my-experiment"')
