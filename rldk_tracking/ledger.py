"""What people have been told, on disk, so that a training that goes on from an older checkpoint does not repeat it."""

from __future__ import annotations

import logging
from pathlib import Path

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.journal import Journal, encode, read

logger = logging.getLogger(__name__)

FILE_NAME = "alerts.jsonl"


class Ledger:
    """The alerts of one training, in `<folder>/rldk/alerts.jsonl`.

    Args:
        folder: the training's output folder; None keeps no ledger.
        resumed_at: the checkpoint's step where the training goes on from one. Without it the file begins anew.
    """

    def __init__(self, folder: str | None, resumed_at: int | None = None) -> None:
        self._journal = None if folder is None else Journal(Path(folder) / "rldk" / FILE_NAME)
        self._told: list[tuple[str, str, str, int]] = []
        if self._journal is None:
            return
        try:
            if resumed_at is None:
                self._journal.path.unlink(missing_ok=True)
            elif self._journal.path.exists():
                told = [record for record in read(self._journal.path) if record["type"] == "alert"]
                self._told = [(r["rule"], r["state"], r["severity"], r["step"]) for r in told if r["step"] > resumed_at]
        except (OSError, KeyError, TypeError) as error:
            self._give_up(error)

    def is_news(self, alert: Alert) -> bool:
        """Whether nobody was told of this alert, between the checkpoint and the end of the earlier training.

        What is news is noted. The same rule is told of once more when it fires again later than anything told so far.
        """
        for told in self._told:
            if told[:3] == (alert.rule, alert.state, alert.severity) and alert.step <= max(t[3] for t in self._told):
                self._told.remove(told)
                return False
        if self._journal is not None:
            try:
                self._journal.append([encode("alert", (alert,), 0.0)])
            except OSError as error:
                self._give_up(error)
        return True

    def close(self) -> None:
        """Close the file."""
        if self._journal is not None:
            self._journal.close()

    def _give_up(self, error: Exception) -> None:
        logger.info("Alerts are not noted for a later resume (%s).", type(error).__name__)
        self._journal = None
