"""Judge a past run: the same rules and the same engine as live, row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rldk_tracking.health.alert import Alert, add_alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.verdict import EXIT_CODES, Judged, Verdict, verdict_of
from rldk_tracking.health.watched import row_rules
from rldk_tracking.history.handwritten import NAMES
from rldk_tracking.history.reading import read
from rldk_tracking.history.run_history import JUDGED, History
from rldk_tracking.metrics.keys import lookup, misspelt
from rldk_tracking.sources.aliases import ALIASES, EVALUATED, NAN_COUNTERS
from rldk_tracking.sources.own_names import OwnNames

LOGGED = frozenset(
    {
        *ALIASES.values(),
        *NAMES.values(),
        *EVALUATED.values(),
        *NAN_COUNTERS.values(),
        # Of names that stand for one key or another, see `rldk_tracking.sources.logs`.
        *("rldk/kl/ref_k3", "rldk/reward/std", "rldk/reward/group_std_mean"),
    }
)
"""Catalogue keys for which a log may have a name."""


@dataclass(frozen=True)
class ReplayResult:
    """What the rules say of a run.

    Attributes:
        source: what was read.
        rows: how many rows were judged.
        alerts: every transition, with the 0-based index of the source's entry at which it happened.
        judged: how far each rule has come.
        never_in_logs: ids of rules whose data no log has, where the source is a log.
        scores: `rldk/health/...` as of the last row.
        convergence: "improving", "plateau", "solved" or "diverging", None where it is not known.
        held_back: ids of rules that were breached while another rule that is their cause fired, with that cause.
        notes: sentences on the reading, see `rldk_tracking.history.run_history.History`.
        format: what the source was read as, for people.
        cause_series: (step, value) of the series that `first_cause` judged.
    """

    source: str
    rows: int
    alerts: list[tuple[int, Alert]]
    judged: Judged
    never_in_logs: tuple[str, ...]
    scores: dict[str, float]
    convergence: str | None
    held_back: dict[str, str]
    notes: tuple[str, ...] = ()
    format: str = ""
    cause_series: tuple[tuple[int, float], ...] = ()

    @property
    def first_cause(self) -> Alert | None:
        """Of the alerts as severe as the verdict, the one whose condition was seen first; None without any."""
        worst = [alert for _, alert in self.alerts if alert.state == "firing" and alert.severity == self.verdict]
        return min(worst, key=lambda alert: alert.first_step, default=None)

    @property
    def consequences(self) -> list[str]:
        """Ids of the rules that the first cause held back."""
        cause = self.first_cause
        if cause is None:
            return []
        named = [rule for _, alert in self.alerts if alert.rule == cause.rule for rule in alert.consequences]
        return list(dict.fromkeys([*named, *(rule for rule, by in self.held_back.items() if by == cause.rule)]))

    @property
    def unknown(self) -> list[str]:
        """Ids of the rules whose data never came."""
        return list(self.judged.without_data)

    @property
    def coverage(self) -> str:
        """How many rules have judged, in a sentence."""
        return self.judged.coverage.sentence(len(self.never_in_logs))

    @property
    def verdict(self) -> Verdict:
        """Of the most severe alert of the run; without any, "healthy" or "unknown"."""
        severities = [alert.severity for _, alert in self.alerts if alert.state == "firing"]
        return verdict_of(severities, self.judged.coverage.is_enough)

    @property
    def exit_code(self) -> int:
        """0 healthy, 1 warning, 2 critical, 4 unknown."""
        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "verdict": self.verdict,
            "first_cause": None if self.first_cause is None else self.first_cause.rule,
            "coverage": self.coverage,
            "convergence": self.convergence,
            "source": self.source,
            "format": self.format,
            "rows": self.rows,
            "notes": list(self.notes),
            "alerts": [alert.as_dict() | {"row": row} for row, alert in self.alerts],
            "held_back": self.held_back,
            "judged": list(self.judged.judged),
            "warming_up": list(self.judged.warming_up),
            "unknown": self.unknown,
            "failed": list(self.judged.failed),
            "never_in_logs": list(self.never_in_logs),
            "scores": self.scores,
        }


def replay(
    source: str | Path | History,
    rules: str | Sequence[Rule] = "safe",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    context: Mapping[str, Any] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> ReplayResult:
    r"""Judge a past run.

    Args:
        source: what `rldk_tracking.history.reading.read` reads, or what it returned.
        rules: a preset, the path of a YAML file, or rules, see `rldk_tracking.health.presets.rules_for`.
        overrides: changes to single rules, {"kl.high": {"threshold": 0.2}}.
        context: the run's settings, beside those that the source knows.
        aliases: names in the source to keys of the catalogue, or to those that a rule reads.

    Raises:
        UnreadableSourceError: there is nothing to read.
        ValueError: unknown rules or fields, or an alias for a series that there is not.

    Examples:
        >>> import json, pathlib, tempfile
        >>> from rldk_tracking import replay
        >>> rows = [{"step": step, "rldk/nan/weights": float(step > 5)} for step in range(1, 9)]
        >>> log = pathlib.Path(tempfile.mkdtemp(), "log.jsonl")
        >>> _ = log.write_text("\n".join(json.dumps(row) for row in rows))
        >>> result = replay(log)
        >>> result.verdict, [alert.rule for _, alert in result.alerts]
        ('critical', ['nan.weights'])
    """
    chosen = rules_for(rules, overrides)
    _check_aliases(aliases or {}, chosen)
    asking = {rule.id: names for rule in chosen if (names := rule.own_names)}
    own = OwnNames((name for names in asking.values() for name in names), is_over=True)
    past = source if isinstance(source, History) else read(source, aliases, own)
    if isinstance(source, History):
        for entry in past.entries:
            own.read(entry.row)
    engine = Engine(row_rules(chosen), {**past.settings, **(context or {})})
    alerts: list[Alert] = []
    rows: dict[tuple[str, int, str], int] = {}
    judged_rows = engine.judge([(entry.step, entry.row) for entry in past.entries])
    for entry, changes in zip(past.entries, judged_rows, strict=True):
        for alert in changes:
            rows.setdefault((alert.rule, alert.step, alert.state), entry.index)
            add_alert(alerts, alert)
    judged = Judged.by(engine)
    result = ReplayResult(
        source=past.source,
        rows=len(past.entries),
        alerts=[(rows[alert.rule, alert.step, alert.state], alert) for alert in alerts],
        judged=judged,
        never_in_logs=not_logged(engine.rules, judged.without_data) if past.is_log else (),
        scores=engine.scores(),
        convergence=engine.convergence,
        held_back=engine.held_back,
        notes=(*past.notes, *own.never({rule: asking[rule] for rule in judged.without_data if rule in asking})),
        format=past.format,
    )
    key = None if result.first_cause is None else result.first_cause.key
    series = ((entry.step, entry.row[key]) for entry in past.entries if key in entry.row) if key is not None else ()
    return replace(result, cause_series=tuple(series))


def not_logged(rules: Iterable[Rule], ids: Collection[str]) -> tuple[str, ...]:
    """Those of some rules whose data comes in no log, so that only a training with the callback can judge them.

    Args:
        rules: the rules.
        ids: which of them are asked about.
    """
    return tuple(rule.id for rule in rules if rule.id in ids and not any(map(_may_be_logged, _keys(rule))))


def _keys(rule: Rule) -> tuple[str, ...]:
    """Its series, and others that its condition takes in their place."""
    return (*rule.keys, *rule.build({}).keys)


def _may_be_logged(key: str) -> bool:
    return key in LOGGED or key.startswith(JUDGED) or not key.startswith("rldk/")


def _check_aliases(aliases: Mapping[str, str], rules: Sequence[Rule]) -> None:
    read_by_rules = {key for rule in rules for key in rule.keys}
    for name, key in aliases.items():
        problem = misspelt(key, in_full=True)
        if problem is None and lookup(key) is None and key not in read_by_rules:
            problem = f"there is no series {key!r}, and no rule reads it; see `rldk-tracking keys`."
        if problem is not None:
            raise ValueError(f"aliases[{name!r}]: {problem}")
