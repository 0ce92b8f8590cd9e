"""A run's health on one page of Markdown, for the note of its page: verdict, links, alerts, last values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rldk_tracking.charts.episodes import Episode, by_weight, verdict
from rldk_tracking.charts.markdown import escaped, table
from rldk_tracking.keys import lookup

LENGTH = 8000
"""MLflow cuts a longer note."""
ROWS = 20
GAP = "&ensp;"
"""MLflow sets the columns of a table side by side without any."""
SHOWN = (
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


def note(
    status: str,
    step: int | None,
    row: Mapping[str, float],
    told: Sequence[Episode],
    links: Mapping[str, str],
    picture: str = "",
) -> str:
    """The note, at most `LENGTH` characters.

    Args:
        status, step, row, told: see `verdict`.
        links: text to address, made here and not by strangers.
        picture: address of the picture of what broke; empty for none.
    """
    gravest = next((e for e in by_weight(told) if e.ended is None and e.severity != "info"), None)
    head = [f"**{escaped(verdict(status, step, row, told))}**{f' {escaped(gravest.message)}' if gravest else ''}"]
    if links:
        head.append(" · ".join(f"[{text}]({address})" for text, address in links.items()))
    if picture:
        head.append(f"![The alerts and their series over the steps]({picture})")
    values = [(key, row[key]) for key in SHOWN if key in row]
    columns = ("series", "last value", "unit", "meaning")
    tail = [table(columns, [_value(*pair) for pair in values], GAP)] if values else []
    shown = by_weight(told)[:ROWS]
    while True:
        parts = [*head, *_alerts(shown, len(told)), *tail]
        text = "\n\n".join(parts)
        if len(text) <= LENGTH or not shown:
            return text[:LENGTH]
        shown.pop()


def _alerts(shown: Sequence[Episode], total: int) -> list[str]:
    if not total:
        return []
    rows = [
        (
            escaped(episode.rule, 80),
            f"{episode.severity}, {'open' if episode.ended is None else f'over at {episode.ended}'}",
            str(episode.first_step),
            escaped(episode.message),
            escaped(episode.advice),
        )
        for episode in shown
    ]
    parts = [table(("alert", "state", "since step", "what", "what to try"), rows, GAP)]
    if total > len(shown):
        parts.append(f"{total - len(shown)} more in rldk/alerts.json.")
    return parts


def _value(key: str, value: float) -> tuple[str, str, str, str]:
    known = lookup(key)
    unit, meaning = ("", "") if known is None else (known.unit, known.meaning)
    return escaped(key), f"{value:.4g}", "" if unit == "1" else escaped(unit), escaped(meaning)
