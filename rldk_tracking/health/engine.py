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

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from rldk_tracking.health.alert import Alert, Severity, add_alert
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.scores import STABILITY, Scores
from rldk_tracking.health.watch import Watch
from rldk_tracking.isolation import Shield

logger = logging.getLogger(__name__)

VERSION = 2
RULE_FAILED = "health.rule_failed"
"""Id of the alert. It is in no catalogue, as it is about the rules there."""
NEVER_LOGGED = "health.never_logged"
"""Likewise: rules or charts ask for names that the trainer does not log."""
CAUSE_CHARACTERS = 200
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
        self._silenced_by = {
            name: tuple(
                watch.rule.id
                for watch in self._watches.values()
                if watch.rule.id != name and _covers(watch.rule.silences, name)
            )
            for name in self._watches
        }
        self._working = dict(self._watches)
        self._order = sorted(self._watches.values(), key=lambda watch: len(self._silenced_by[watch.rule.id]))
        self._readers = {
            key: {watch.rule.id for watch in self._order if key in watch.condition.reads()}
            for key in {key for watch in self._order for key in watch.condition.reads()}
        }
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
        if not all(map(math.isfinite, row.values())):
            row = {key: value for key, value in row.items() if math.isfinite(value)}
        row = self._scores.follow(step, row, self._working, STABILITY in self._readers)
        changes: list[Alert] = []
        self._each(changes, self._concerned_by(step, tuple(row)), Watch.look, step, row)
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

    def _concerned_by(self, step: int, series: tuple[str, ...]) -> list[Watch]:
        """The rules whose data may be among a row's series; the others find nothing in it."""
        if self._begins:
            self._begins = False
            for watch in self._order:
                watch.begin = step if watch.begin is None else watch.begin
        concerned = self._concerned.get(series)
        if concerned is None:
            if len(self._concerned) == MOST_KINDS:
                self._concerned.clear()
            readers = set().union(*(self._readers.get(key, ()) for key in series))
            concerned = self._concerned[series] = [
                watch for watch in self._order if watch.condition.reads_others or watch.rule.id in readers
            ]
        if concerned is not self._looked:
            for watch in self._order:
                watch.finding = None
            self._looked = concerned
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


def _covers(patterns: Iterable[str], rule: str) -> bool:
    family = rule.partition(".")[0]
    return any(pattern in ("*", rule, f"{family}.*") for pattern in patterns)


class Failures:
    """The rules of a run that raised, and the alert about them.

    Args:
        strict: let the exceptions out, for development and tests.

    Attributes:
        causes: rule id to the exception in words.
        alert: the alert that is open; None while every rule works.
    """

    def __init__(self, strict: bool = False) -> None:
        self.causes: dict[str, str] = {}
        self.alert: Alert | None = None
        self._shield = Shield(strict)
        self._earlier: Alert | None = None

    def each(
        self, changes: list[Alert], watches: Iterable[Watch], work: Callable[..., object], step: int, *given: Any
    ) -> list[Watch]:
        """Do the work for every rule, and switch off those that raise.

        Args:
            changes: gets the alerts about those that failed.
            watches: the rules that work so far.
            work: what may fail.
            step: the trainer's global step, the work's second argument.
            given: further arguments of it.

        Returns:
            The watches that failed now.
        """
        if self._earlier is not None:
            changes.append(_resolved(self._earlier, step))
            self._earlier = None
        failed = self._shield.each(watches, work, step, *given)
        for watch, error in failed:
            cause = f"{type(error).__name__}: {error}"[:CAUSE_CHARACTERS]
            self.causes[watch.rule.id] = cause
            about = "rldk: the rule %s failed at step %d and is switched off; the others go on."
            logger.error(about, watch.rule.id, step, exc_info=error)
            was = watch.firing()
            if was is not None:
                changes.append(watch.resolve(step, was, f"No longer judged, because the rule failed ({cause})."))
        if failed:
            self.alert = self._about(step)
            changes.append(self.alert)
        return [watch for watch, _ in failed]

    def _about(self, step: int) -> Alert:
        named = "; ".join(f"{rule} ({cause})" for rule, cause in self.causes.items())
        return Alert(
            rule=RULE_FAILED,
            severity="warning",
            state="firing",
            step=step,
            first_step=step if self.alert is None else self.alert.first_step,
            value=float(len(self.causes)),
            threshold=0.0,
            message=f"Rules failed and are switched off, so nothing is known of what they watch for: {named}.",
            advice="The log of the training has the traceback. Mend the rule, or switch it off yourself: "
            'overrides={"RULE": {"enabled": False}}.',
            evidence=dict(self.causes),
        )

    def state(self) -> dict[str, Any]:
        """The alert that is open, as plain data."""
        return {} if self.alert is None else self.alert.as_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """A resumed run judges every rule again; the alert of the run before ends with its first row."""
        self._earlier = Alert(**state) if state else None


def _resolved(was: Alert, step: int) -> Alert:
    message = f"Every rule is judged again since the run was resumed. It was: {was.message}"
    return Alert(was.rule, was.severity, "resolved", step, was.first_step, None, was.threshold, message, "")
