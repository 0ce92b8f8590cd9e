"""Incidents: what was wrong, from when to when. And the verdict on a run, in a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rldk_tracking.charts.spec import Chart, chart_of
from rldk_tracking.health.alert import SEVERITIES, Alert, Severity
from rldk_tracking.health.engine import NEVER_LOGGED
from rldk_tracking.health.verdict import Coverage, Verdict, verdict_of

SCORE = "rldk/health/score"
ALWAYS_SHOWN = ("rldk/reward/mean", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/length/mean", "rldk/health/score")
"""What is shown where there is room, in this order."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A rule from its first firing to its end.

    Attributes:
        severity: the worst that it came to.
        first_step: where the condition was first seen.
        step: where it was believed.
        ended: where it was over; None while it lasts.
        message, advice, value, threshold, key, consequences, times: of its last firing, see `Alert`.
    """

    rule: str
    severity: Severity
    first_step: int
    step: int
    ended: int | None
    message: str
    advice: str
    value: float | None
    threshold: float | None
    key: str | None
    consequences: tuple[str, ...] = ()
    times: int = 1


def incidents_of(alerts: Iterable[Alert]) -> list[Incident]:
    """Every incident, in the order in which they began.

    One that fires again is the same incident (`Alert.times`). An end without a beginning, of another process, is
    left out.
    """
    incidents: list[Incident] = []
    open_at: dict[str, int] = {}
    last_at: dict[str, int] = {}
    for alert in alerts:
        place = open_at.get(alert.rule)
        if place is None and alert.state == "firing" and alert.times > 1 and alert.rule in last_at:
            place = open_at[alert.rule] = last_at[alert.rule]
        if alert.state == "resolved":
            if place is not None:
                incidents[place] = replace(incidents[place], ended=alert.step)
                del open_at[alert.rule]
        elif place is None:
            open_at[alert.rule] = last_at[alert.rule] = len(incidents)
            incidents.append(_of(alert, None))
        else:
            incidents[place] = _of(alert, incidents[place])
    return incidents


def _of(alert: Alert, before: Incident | None) -> Incident:
    worst = alert.severity if before is None else max(alert.severity, before.severity, key=SEVERITIES.index)
    return Incident(
        rule=alert.rule,
        severity=worst,
        first_step=alert.first_step if before is None else before.first_step,
        step=alert.step if before is None else before.step,
        ended=None,
        message=alert.message,
        advice=alert.advice,
        value=alert.value,
        threshold=alert.threshold,
        key=alert.key,
        consequences=alert.consequences,
        times=alert.times,
    )


def worst_open(incidents: Iterable[Incident]) -> Severity | None:
    """The highest severity among the incidents that last, None where none does."""
    lasting = [incident.severity for incident in incidents if incident.ended is None]
    return max(lasting, key=SEVERITIES.index) if lasting else None


def by_weight(incidents: Sequence[Incident]) -> list[Incident]:
    """What to read first: what lasts before what is over, the severe before the mild, the early before the late."""
    return sorted(incidents, key=lambda e: (e.ended is not None, -SEVERITIES.index(e.severity), e.first_step))


def overview_charts(incidents: Sequence[Incident]) -> list[Chart]:
    """One for each alert's series, the gravest first, and then what is always of interest."""
    grave = [incident for incident in by_weight(incidents) if incident.severity != "info"]
    keys = [incident.key for incident in grave if incident.key is not None]
    return [chart_of(key) for key in dict.fromkeys([*keys, *ALWAYS_SHOWN])]


def verdict_word(row: Mapping[str, float], incidents: Iterable[Incident]) -> Verdict:
    """The verdict on a run as it stands: of the alerts that are open, and of how much was judged.

    Args:
        row: the last values, which say how many rules have judged.
        incidents: the incidents so far.
    """
    coverage = Coverage.of_row(row)
    # Journals of earlier versions do not say how many rules judged, only a score where any did.
    is_enough = SCORE in row if coverage is None else coverage.is_enough
    return verdict_of((incident.severity for incident in incidents if incident.ended is None), is_enough)


def verdict(status: str, step: int | None, row: Mapping[str, float], incidents: Sequence[Incident]) -> str:
    """One sentence on the run. It says healthy only where enough was judged.

    Args:
        status: "running", "warning", "critical", "finished", "stopped" or "crashed"; empty where it is not known.
        step: the last step.
        row: the last values.
        incidents: the incidents so far.
    """
    words = {"finished": "Finished", "stopped": "Stopped", "crashed": "Crashed", "": "As recorded"}
    word = words.get(status, "Running")
    when = word if step is None else f"{word}, step {step}"
    lasting = [incident for incident in by_weight(incidents) if incident.ended is None]
    troubles = [incident for incident in lasting if incident.severity != "info"]
    if troubles:
        first = troubles[0]
        more = f" and {len(troubles) - 1} more" if len(troubles) > 1 else ""
        return f"{when}. {first.severity.capitalize()}: {first.rule} since step {first.first_step}{more}."
    blind = "".join(f" {incident.message}" for incident in lasting if incident.rule == NEVER_LOGGED)
    if verdict_word(row, incidents) == "unknown":
        return f"{when}. {_unknown(row)}{blind}"
    over = [incident for incident in incidents if incident.severity != "info"]
    if over:
        plural = "s are" if len(over) > 1 else " is"
        return f"{when}. No alert is open; {len(over)} earlier one{plural} over.{blind}"
    return f"{when}. No alert so far.{blind}"


def _unknown(row: Mapping[str, float]) -> str:
    coverage = Coverage.of_row(row)
    if coverage is None or coverage.judged + coverage.warming_up == 0:
        return "Nothing is known about its health: no rule had data."
    return f"Unknown: too little was judged to call it healthy ({coverage.sentence()})."
