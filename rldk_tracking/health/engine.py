"""Judges a run row by row: the same object live and in replay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rules import Rule
from rldk_tracking.health.scores import Scores
from rldk_tracking.health.watch import Watch

VERSION = 1


class Engine:
    """Rules over a run, in constant time and memory a step.

    Args:
        rules: see `rldk_tracking.health.presets.rules_for`.
        context: the run's settings (learning_rate, beta, num_generations, ...): quoted in advice, and the source of
            limits that depend on them.
    """

    def __init__(self, rules: Iterable[Rule], context: Mapping[str, Any] | None = None) -> None:
        settings = dict(context or {})
        self._watches = {rule.id: Watch(rule, settings) for rule in rules}
        self._scores = Scores()
        self.held_back: dict[str, str] = {}
        """Rules that would have fired while their cause did: rule id to the cause's id. The last cause stands."""
        self._silenced_by = {
            name: tuple(
                watch.rule.id
                for watch in self._watches.values()
                if watch.rule.id != name and _covers(watch.rule.silences, name)
            )
            for name in self._watches
        }
        self._order = sorted(self._watches.values(), key=lambda watch: len(self._silenced_by[watch.rule.id]))

    def update(self, step: int, row: Mapping[str, float]) -> list[Alert]:
        """Judge a row.

        Args:
            step: the trainer's global step. It may go backwards, as it does when a run resumes.
            row: `rldk/...` keys. Missing is unknown; values that are not finite are taken for missing.

        Returns:
            What changed: alerts that began to fire, became more severe, or ended.
        """
        if not all(map(math.isfinite, row.values())):
            row = {key: value for key, value in row.items() if math.isfinite(value)}
        row = self._scores.follow(row, self._watches)
        changes: list[Alert] = []
        for watch in self._order:
            watch.look(step, row)
        for watch in self._order:
            if watch.wants_to_resolve() and (was := watch.firing()) is not None:
                changes.append(watch.resolve(step, was))
        for watch in self._order:
            severity = watch.wants_to_fire(step)
            if severity is None or watch.finding is None:
                continue
            cause = self._cause(watch)
            if cause is None:
                changes.append(watch.fire(step, severity, watch.finding))
            elif watch.severity is None:
                self.held_back[watch.rule.id] = cause
        return changes

    def _cause(self, watch: Watch) -> str | None:
        """The rule that fires and whose consequence this one is."""
        causes = self._silenced_by[watch.rule.id]
        return next((cause for cause in causes if self._watches[cause].severity is not None), None)

    @property
    def firing(self) -> list[Alert]:
        """The alerts that are open, most severe first."""
        alerts = [alert for watch in self._watches.values() if (alert := watch.firing()) is not None]
        return sorted(alerts, key=lambda alert: ("critical", "warning", "info").index(alert.severity))

    @property
    def rules(self) -> list[Rule]:
        """The rules that are watched."""
        return [watch.rule for watch in self._watches.values()]

    def unknown(self) -> list[str]:
        """Ids of the rules whose data never came: nothing is known about what they watch for."""
        return [name for name, watch in self._watches.items() if not watch.known]

    def scores(self) -> dict[str, float]:
        """`rldk/health/...` as of the last row; a score without data is absent."""
        return self._scores.read(self._watches)

    @property
    def convergence(self) -> str | None:
        """One of "improving", "plateau", "solved" or "diverging"; None where it is not known."""
        return self._scores.verdict

    def state(self) -> dict[str, Any]:
        """Plain data from which `load_state` goes on as if nothing had happened."""
        return {
            "version": VERSION,
            "rules": {name: watch.state() for name, watch in self._watches.items()},
            "scores": self._scores.state(),
            "held_back": dict(self.held_back),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Rules that it does not know start afresh; rules that are gone are forgotten.

        Raises:
            ValueError: the state is of another version of this package.
        """
        if not state:
            return
        if state.get("version") != VERSION:
            raise ValueError(f"health state of version {state.get('version')!r} cannot be read, only {VERSION}.")
        for name, held in state.get("rules", {}).items():
            if name in self._watches:
                self._watches[name].load_state(held)
        self._scores.load_state(state.get("scores", {}))
        self.held_back = dict(state.get("held_back", {}))


def _covers(patterns: Iterable[str], rule: str) -> bool:
    family = rule.partition(".")[0]
    return any(pattern in ("*", rule, f"{family}.*") for pattern in patterns)
