"""Judges the rows of a run, writes them, and says what is to be done."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rldk_tracking.charts.series import limits_of
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.verdict import Judged
from rldk_tracking.journal.publisher import Publisher
from rldk_tracking.journal.settings import Settings

logger = logging.getLogger(__name__)

STOP, SAVE = 1, 2
"""Flags of what the trainer is to do."""


class Judge:
    """The rules of one run and what they lead to.

    Args:
        rules: those that are judged from rows.
        settings: what the user asked for.
        config: settings of the trainer that alerts quote.
        publisher: where judged rows go.

    Attributes:
        stop: the alert that asked for a stop, if any.
    """

    def __init__(
        self, rules: Sequence[Rule], settings: Settings, config: Mapping[str, Any], publisher: Publisher
    ) -> None:
        self.stop: Alert | None = None
        self.engine = Engine(rules, context=dict(config), strict=settings.strict)
        self._settings = settings
        self._limits = limits_of(settings.overrides, settings.goals)
        self._publisher = publisher

    @property
    def alerts(self) -> list[Alert]:
        """Every transition so far."""
        return self._publisher.alerts

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another run; afresh, with a warning, where it cannot be read."""
        try:
            self.engine.load_state(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("rldk: the checkpoint's state is not taken over, judging starts afresh: %s", error)

    def row(self, step: int, row: dict[str, float]) -> int:
        """Judge a row, which gets the scores, and write both. Returns the flags; an empty row asks for nothing.

        What has become known of an earlier step gets no scores: they are those of the present one.
        """
        if not row:
            return 0
        publisher, engine = self._publisher, self.engine
        publisher.join()
        is_late = publisher.latest[0] is not None and step < publisher.latest[0]
        if not is_late:
            row.update(publisher.health())
        alerts = engine.update(step, row)
        firing = engine.firing
        if not is_late:
            row.update(engine.scores())
            row.update(Judged.by(engine).coverage.row())
            row["rldk/alerts/firing"] = float(len(firing))
            row.update(self._limits)
        unsent = publisher.row(step, row, alerts)
        severities = {alert.severity for alert in firing}
        at = publisher.latest[0] if is_late else step
        publisher.status(next((s for s in ("critical", "warning") if s in severities), "running"), at or step)
        new = [alert for alert in alerts if alert.step == step]  # the others are there, with fewer consequences
        flags = self._act(new, [alert for alert in unsent if alert.step == step]) if new else 0
        return flags | (STOP if self.stop is not None else 0)

    def _act(self, alerts: Sequence[Alert], unsent: Sequence[Alert]) -> int:
        """Do what the rules of these alerts ask for. Returns the flags beside STOP."""
        actions = self._publisher.actions
        for alert in unsent:
            actions.call(alert)
        self.stop = self.stop or self._critical(alerts) or actions.stop(alerts)
        return SAVE if actions.save(alerts) else 0

    def _critical(self, alerts: Sequence[Alert]) -> Alert | None:
        """The first of these alerts that ends the training, where the user wants that."""
        if self._settings.on_critical != "stop":
            return None
        return next((alert for alert in alerts if alert.severity == "critical" and alert.state == "firing"), None)
