"""Markdown: escaped text, tables, and the note on a run's health.

Text is of unknown origin: names of reward functions, runs and settings may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from rldk_tracking.charts.incidents import Incident, by_weight, verdict
from rldk_tracking.keys import lookup

_MARKS = re.compile(r"[\\`*_{}\[\]<>()#|~$!&:@^=]")
_LINK = re.compile(r"\bwww\.", re.IGNORECASE)
NOTE_CHARACTERS = 8000
"""MLflow cuts a longer note."""
MOST_ALERTS = 20
CELL_GAP = "&ensp;"
"""MLflow sets the columns of a table side by side without any."""
QUOTED_SERIES = (
    "rldk/health/score",
    "rldk/health/convergence",
    "rldk/reward/mean",
    "rldk/kl/ref_k3",
    "rldk/policy/entropy",
    "rldk/policy/clip_fraction",
    "rldk/value/explained_variance",
    "rldk/length/mean",
    "rldk/length/truncated_fraction",
    "rldk/grad/norm",
    "rldk/update/learning_rate",
    "rldk/preference/accuracy",
    "rldk/checkpoint/score",
    "rldk/throughput/step_seconds",
)
"""Series whose last value the note quotes."""


def escaped(text: object, most: int = 400) -> str:
    """The text as it stands, on one line, without any meaning in Markdown or HTML; at most `most` characters of it."""
    plain = " ".join(str(text).split())
    plain = "".join(character for character in plain if character.isprintable())
    if len(plain) > most:
        plain = plain[: most - 1] + "…"
    # Entities, since renderers differ in what a backslash escapes; a bare address would become a link by itself.
    safe = _MARKS.sub(lambda found: f"&#{ord(found.group())};", plain)
    return _LINK.sub(lambda found: f"{found.group()[:-1]}&#46;", safe)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], gap: str = "") -> str:
    """A table of cells that are escaped already, with `gap` at the end of each."""
    between = f"{gap} | "
    lines = ["| " + between.join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + between.join(row) + " |" for row in rows]
    return "\n".join(lines)


def note(
    status: str,
    step: int | None,
    row: Mapping[str, float],
    incidents: Sequence[Incident],
    links: Mapping[str, str],
    picture: str = "",
) -> str:
    """A run's health on one page, for the note of its page: verdict, links, alerts, last values.

    At most `NOTE_CHARACTERS` characters.

    Args:
        status, step, row, incidents: see `verdict`.
        links: text to address, made here and not by strangers.
        picture: address of the picture of what broke; empty for none.
    """
    gravest = next((e for e in by_weight(incidents) if e.ended is None and e.severity != "info"), None)
    head = [f"**{escaped(verdict(status, step, row, incidents))}**{f' {escaped(gravest.message)}' if gravest else ''}"]
    if links:
        head.append(" · ".join(f"[{text}]({address})" for text, address in links.items()))
    if picture:
        head.append(f"![The alerts and their series over the steps]({picture})")
    values = [(key, row[key]) for key in QUOTED_SERIES if key in row]
    columns = ("series", "last value", "unit", "meaning")
    tail = [table(columns, [_value(*pair) for pair in values], CELL_GAP)] if values else []
    shown = by_weight(incidents)[:MOST_ALERTS]
    while True:
        parts = [*head, *_alerts(shown, len(incidents)), *tail]
        text = "\n\n".join(parts)
        if len(text) <= NOTE_CHARACTERS or not shown:
            return text[:NOTE_CHARACTERS]
        shown.pop()


def _alerts(shown: Sequence[Incident], total: int) -> list[str]:
    if not total:
        return []
    rows = [
        (
            escaped(incident.rule, 80),
            f"{incident.severity}, {'open' if incident.ended is None else f'over at {incident.ended}'}",
            str(incident.first_step),
            escaped(incident.message),
            escaped(incident.advice),
        )
        for incident in shown
    ]
    parts = [table(("alert", "state", "since step", "what", "what to try"), rows, CELL_GAP)]
    if total > len(shown):
        parts.append(f"{total - len(shown)} more in rldk/alerts.json.")
    return parts


def _value(key: str, value: float) -> tuple[str, str, str, str]:
    known = lookup(key)
    unit, meaning = ("", "") if known is None else (known.unit, known.meaning)
    return escaped(key), f"{value:.4g}", "" if unit == "1" else escaped(unit), escaped(meaning)
