"""Judges a run row by row: the same object live and in replay. The `Engine` decides between the rules' `Watch`es.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/alerts/rules_judged | rules | rules
        Rules that have seen enough of their data to fire.
        = count of rules past their warm-up
    rldk/alerts/rules_warming_up | rules | rules
        Rules that have data, but too little of it yet to fire.
        = count of rules with data that are within their warm-up
    rldk/alerts/rules_without_data | rules | rules
        Rules whose data never came.
        = count of rules of whose keys no row had one
    rldk/alerts/core_rules_judged | rules | rules
        Of the rules that have judged, those on how learning goes; with none the run's health is unknown.
        = count over the families reward, kl, policy, entropy, value, advantage, preference, grad, update and own ones
    rldk/alerts/firing | alerts | rules | lower | max over ranks
        Alerts that are open.
        = count
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from rldk_tracking.health.alert import Alert, Severity, add_alert
from rldk_tracking.health.failures import Failures
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.scores import SPIKE_FREE, STABILITY, Scores
from rldk_tracking.health.watch import Watch

VERSION = 2
NEVER_LOGGED = "health.never_logged"
"""Id of an alert that is in no catalogue either: rules or charts ask for names that the trainer does not log."""
BLOCK_ROWS = 64
"""That a rule judges at a time where all are known."""
MOST_KINDS = 256
"""Of rows, by their series, of which it is remembered which rules they concern."""


class Engine:
    """Rules over a run, in constant time and memory a step.

    Args:
        rules: see `rldk_tracking.health.presets.rules_for`.
        context: the run's settings (learning_rate, beta, num_generations, ...): quoted in advice, and the source of
            limits that depend on them.
        strict: let exceptions of rules out, for development and tests.
    """

    def __init__(
        self, rules: Iterable[Rule], context: Mapping[str, Any] | None = None, *, strict: bool = False
    ) -> None:
        settings = dict(context or {})
        self._failures = Failures(strict)
        self._watches = {rule.id: Watch(rule, settings) for rule in rules}
        self._scores = Scores()
        self.held_back: dict[str, str] = {}
        """Rules that would have fired while their cause did: rule id to the cause's id. The last cause stands."""
        self._silenced_by: dict[str, list[str]] = {name: [] for name in self._watches}
        for cause in self._watches.values():
            for name in self._watches if cause.rule.silences else ():
                if cause.rule.id != name and _covers(cause.rule.silences, name):
                    self._silenced_by[name].append(cause.rule.id)
        self._working = dict(self._watches)
        self._order = sorted(self._watches.values(), key=lambda watch: len(self._silenced_by[watch.rule.id]))
        self._readers: dict[str, set[str]] = {}
        for watch in self._order:
            for key in watch.condition.reads():
                self._readers.setdefault(key, set()).add(watch.rule.id)
        self._concerned: dict[tuple[str, ...], list[Watch]] = {}
        self._looked: list[Watch] = []
        self._open = list(self._order)
        self._begins = True

    def update(self, step: int, row: Mapping[str, float]) -> list[Alert]:
        """Judge a row.

        Args:
            step: the trainer's global step. It may go backwards, as it does when a run resumes.
            row: `rldk/...` keys. Missing is unknown; values that are not finite are taken for missing.

        Returns:
            What changed: alerts that began to fire, became more severe, or ended. An open alert that has become the
            cause of further rules comes again with these, its step unchanged.
        """
        return self._update(step, _finite(row))

    def judge(self, rows: Sequence[tuple[int, Mapping[str, float]]]) -> list[list[Alert]]:
        """What `update` says of each of many rows, faster: one rule after the other judges some rows at a time.

        Args:
            rows: step and row.
        """
        changes: list[list[Alert]] = []
        for begin in range(0, len(rows), BLOCK_ROWS):
            block = [(step, _finite(row)) for step, row in rows[begin : begin + BLOCK_ROWS]]
            self._look_ahead(block)
            changes += [self._update(step, row) for step, row in block]
        return changes

    def _look_ahead(self, block: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Let the rules judge a block, but for those that read what follows from the findings row by row."""
        ahead: dict[Watch, list[tuple[int, Mapping[str, float]]]] = {watch: [] for watch in self._order}
        for row in block:
            for watch in self._concerned_by(tuple(row[1])):
                ahead[watch].append(row)
        waiting = {rule for key in (SPIKE_FREE, STABILITY) for rule in self._readers.get(key, ())}
        watches = [watch for watch, rows in ahead.items() if rows and watch.rule.id not in waiting]
        for watch, error in self._failures.shield.each(watches, lambda watch: watch.look_ahead(ahead[watch])):
            watch.fails_ahead(error)

    def _update(self, step: int, row: Mapping[str, float]) -> list[Alert]:
        row = self._scores.follow(step, row, self._working, STABILITY in self._readers)
        changes: list[Alert] = []
        self._each(changes, self._looking(step, tuple(row)), Watch.look, step, row)
        if self._open:
            self._each(changes, self._open, self._resolve, step, changes)
            for watch in self._open:
                if watch.cause is not None and (watch.is_clear or self._severity(watch.cause) is None):
                    watch.cause = None
            self._open = [watch for watch in self._open if watch.severity is not None or watch.cause is not None]
        breached = [watch for watch in self._looked if watch.finding is not None and watch.finding.breached]
        if breached:
            self._each(changes, breached, self._fire, step, changes)
            self._open = [watch for watch in self._order if watch.severity is not None or watch.cause is not None]
        return changes

    def _looking(self, step: int, series: tuple[str, ...]) -> list[Watch]:
        """The rules that a row concerns. The others find nothing in it."""
        if self._begins:
            self._begins = False
            for watch in self._order:
                watch.begin = step if watch.begin is None else watch.begin
        concerned = self._concerned_by(series)
        if concerned is not self._looked:
            for watch in self._order:
                watch.finding = None
            self._looked = concerned
        return concerned

    def _concerned_by(self, series: tuple[str, ...]) -> list[Watch]:
        """The rules whose data may be among a row's series."""
        concerned = self._concerned.get(series)
        if concerned is None:
            if len(self._concerned) == MOST_KINDS:
                self._concerned.clear()
            readers = set().union(*(self._readers.get(key, ()) for key in series))
            concerned = self._concerned[series] = [
                watch for watch in self._order if watch.condition.reads_others or watch.rule.id in readers
            ]
        return concerned

    def _each(self, changes: list[Alert], watches: list[Watch], work: Callable[..., object], *given: Any) -> None:
        """Do the work for these rules; one that raises costs that rule alone."""
        for watch in self._failures.each(changes, watches, work, *given):
            del self._working[watch.rule.id]
            self._order.remove(watch)
            self._concerned.clear()
            self._looked = [each for each in self._looked if each is not watch]
            self._open = [each for each in self._open if each is not watch]

    def _resolve(self, watch: Watch, step: int, changes: list[Alert]) -> None:
        if watch.wants_to_resolve() and (was := watch.firing()) is not None:
            changes.append(watch.resolve(step, was))

    def _fire(self, watch: Watch, step: int, changes: list[Alert]) -> None:
        severity = watch.wants_to_fire(step)
        if severity is None or watch.finding is None:
            return
        cause = self._cause(watch)
        if cause is None:
            changes.append(watch.fire(step, severity, watch.finding))
        elif watch.severity is None:
            self.held_back[watch.rule.id] = watch.cause = cause
            named = self._watches[cause].add_consequence(watch.rule.id)
            if named is not None:
                add_alert(changes, named)

    def _severity(self, rule: str) -> Severity | None:
        watch = self._working.get(rule)
        return None if watch is None else watch.severity

    def _cause(self, watch: Watch) -> str | None:
        """The rule that fires and whose consequence this one is."""
        causes = self._silenced_by[watch.rule.id]
        return next((cause for cause in causes if self._watches[cause].severity is not None), None)

    @property
    def firing(self) -> list[Alert]:
        """The alerts that are open, most severe first."""
        alerts = [alert for watch in self._working.values() if (alert := watch.firing()) is not None]
        if self._failures.alert is not None:
            alerts.append(self._failures.alert)
        return sorted(alerts, key=lambda alert: ("critical", "warning", "info").index(alert.severity))

    @property
    def failed(self) -> Mapping[str, str]:
        """Rules that raised and are switched off since, with the cause. They are not quiet: they know nothing."""
        return self._failures.causes

    @property
    def rules(self) -> list[Rule]:
        """The rules that are watched."""
        return [watch.rule for watch in self._watches.values()]

    @property
    def watches(self) -> Collection[Watch]:
        """The rules as they stand."""
        return self._watches.values()

    def unknown(self) -> list[str]:
        """Ids of the rules whose data never came: nothing is known about what they watch for."""
        return [name for name, watch in self._watches.items() if not watch.known]

    def scores(self) -> dict[str, float]:
        """`rldk/health/...` as of the last row; a score without data is absent."""
        return self._scores.read(self._working)

    def coverage(self) -> dict[str, float]:
        """`rldk/alerts/...` as of the last row; see `health.verdict` for what follows from how much was judged."""
        watches = self._working.values()
        judged = [watch for watch in watches if watch.has_judged]
        known = sum(watch.known for watch in watches)
        return {
            "rldk/alerts/rules_judged": float(len(judged)),
            "rldk/alerts/rules_warming_up": float(known - len(judged)),
            "rldk/alerts/rules_without_data": float(len(watches) - known),
            "rldk/alerts/core_rules_judged": float(sum(watch.is_core for watch in judged)),
            "rldk/alerts/firing": float(len(self.firing)),
        }

    @property
    def convergence(self) -> str | None:
        """One of "improving", "plateau", "solved" or "diverging"; None where it is not known."""
        return self._scores.verdict(self._working)

    def state(self) -> dict[str, Any]:
        """Plain data from which `load_state` goes on as if nothing had happened."""
        return {
            "version": VERSION,
            "rules": {name: watch.state() for name, watch in self._watches.items()},
            "scores": self._scores.state(),
            "held_back": dict(self.held_back),
            "failure": self._failures.state(),
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
        self._failures.load_state(state.get("failure", {}))
        self._begins, self._open = True, list(self._order)


def _finite(row: Mapping[str, float]) -> Mapping[str, float]:
    """A row without the values that are no finite number."""
    if all(map(math.isfinite, row.values())):
        return row
    return {key: value for key, value in row.items() if math.isfinite(value)}


def _covers(patterns: Iterable[str], rule: str) -> bool:
    return not {"*", rule, f"{rule.partition('.')[0]}.*"}.isdisjoint(patterns)
