"""The alerts of one MLflow run, as the table that its page shows: a row for each transition."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.mlflow_run import is_listed, write_table
from rldk_tracking.trackers.records import alert_of

FILE = "rldk/alerts.json"
COLUMNS = (
    "step", "severity", "rule", "message", "advice", "value", "threshold", "state", "first_step", "times",
    "consequences", "key",
)  # fmt: skip
"""What is read first stands first: the page shows what fits."""
SEPARATOR = ", "
"""Between the consequences in a cell."""

EVERY_S = 2.0
"""The tags that say what is open are written not more often than this."""
A_ROW_S = 0.05
"""Table, note and picture hold all alerts, and MLflow has no way to append to them: the pause until they are written
anew grows with each row, so that what is sent in an hour does not grow with the alerts of the run."""
LONGEST_S = 60.0


class AlertTable:
    """Transitions in the order in which they came, each once.

    Attributes:
        alerts: the transitions.
        waits: whether there are some that the stored table does not have.
    """

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.waits = False
        self._is_loaded = False
        self._not_before = self._no_tags_before = 0.0
        self._tagged = 0
        self._known: dict[tuple[int, str, str, str], int] = {}

    def add(self, alert: Alert) -> None:
        """Take a transition. One that is there makes way for itself with more consequences."""
        sign = (alert.step, alert.rule, alert.severity, alert.state)
        place = self._known.get(sign)
        if place is None:
            self._known[sign] = len(self.alerts)
            self.alerts.append(alert)
            self.waits = True
        elif len(alert.consequences) > len(self.alerts[place].consequences):
            self.alerts[place] = alert
            self.waits = True

    def put_before(self, earlier: Iterable[Alert]) -> None:
        """Take transitions that are older than those here."""
        waits, later = self.waits, self.alerts
        self.alerts, self._known = [], {}
        for alert in [*earlier, *later]:
            self.add(alert)
        self.waits = waits

    @property
    def open(self) -> dict[str, str]:
        """Rules that fire, and how severe each is."""
        found: dict[str, str] = {}
        for alert in self.alerts:
            if alert.state == "firing":
                found[alert.rule] = alert.severity
            else:
                found.pop(alert.rule, None)
        return found

    @property
    def status(self) -> str:
        """How a run that has not ended is: "critical", "warning" or "running"."""
        severities = set(self.open.values())
        return next((word for word in ("critical", "warning") if word in severities), "running")

    @property
    def is_due(self) -> bool:
        """Whether the table is to be written: all of it each time, so not at each of many transitions."""
        return self.waits and time.monotonic() >= self._not_before

    @property
    def are_tags_due(self) -> bool:
        """Whether the run's tags are to say what is open now, and did not do so a moment ago."""
        return self._tagged != len(self.alerts) and time.monotonic() >= self._no_tags_before

    @property
    def tags(self) -> dict[str, str]:
        """What the run's tags say of the alerts."""
        return {"rldk.alerts.open": ",".join(sorted(self.open)), "rldk.status": self.status}

    def note_tags(self) -> None:
        """The tags are written."""
        self._tagged, self._no_tags_before = len(self.alerts), time.monotonic() + EVERY_S

    def load(self, client: Any, run_id: str) -> None:
        """Begin with what an earlier process has stored in the run. Does so once.

        Raises:
            MlflowException, OSError: the store does not answer.
        """
        if not self._is_loaded:
            if is_listed(client, run_id, FILE):
                self.put_before(stored(client, run_id))
            self._is_loaded = True

    def write(self, client: Any, run_id: str) -> None:
        """Write the table. Raises MlflowException where the store does not take it."""
        write_table(client, run_id, FILE, COLUMNS, self.rows)
        self.waits = False
        self._not_before = time.monotonic() + min(LONGEST_S, max(EVERY_S, A_ROW_S * len(self.alerts)))

    @property
    def rows(self) -> list[list[Any]]:
        """One row a transition, under `COLUMNS`."""
        found = [alert.as_dict() | {"consequences": SEPARATOR.join(alert.consequences)} for alert in self.alerts]
        return [[fields[column] for column in COLUMNS] for fields in found]


def stored(client: Any, run_id: str) -> list[Alert]:
    """The table that an earlier process left in a run; rows of another make are left out.

    Raises:
        MlflowException, OSError: the store does not answer.
    """
    with TemporaryDirectory() as folder:
        # By the client of this store: `mlflow.artifacts` would ask the one that is set for the process.
        text = Path(client.download_artifacts(run_id, FILE, folder)).read_text(encoding="utf-8")
    try:
        table = json.loads(text)
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for row in rows:
        try:
            consequences = row.pop("consequences", None)
            found.append(alert_of(row | {"consequences": consequences.split(SEPARATOR) if consequences else ()}))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found
