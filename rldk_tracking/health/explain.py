"""A page of text for a rule: what it watches, why, likely causes, what to try first, where its limit comes from.

`rldk-tracking explain RULE` prints it.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Iterable

from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.failures import RULE_FAILED
from rldk_tracking.health.parameters import parameters_of
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.rule import Page, Rule

WIDTH = 100
FAILED_PAGE = (
    "A rule raised an exception while it judged a row. It is switched off for the rest of the run, so that nothing is "
    "known of what it watches for; the row is stored and the other rules go on. The alert names the rule and the "
    "exception, the log of the training has the traceback. It is no fault of the training."
)


def explain(name: str, rules: Iterable[Rule] | None = None) -> str:
    """The page.

    Args:
        name: id of a rule.
        rules: those in force, as overrides changed them or a user wrote them; the built-in ones by default.

    Raises:
        KeyError: there is no such rule; the message names the nearest.
    """
    known = builtin_rules() if rules is None else {rule.id: rule for rule in rules}
    if name == RULE_FAILED and name not in known:
        return f"{RULE_FAILED} (warning)\n{_paragraph(FAILED_PAGE)}\n"
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)
        raise KeyError(f"no rule {name!r}; there are {', '.join(near)}")
    rule = known[name]
    page = rule.page or Page()
    sections = [
        ("", [_paragraph(page.why)]),
        ("Fires when", [_watched(rule), _believed(rule)]),
        ("Parameters", _listed(_parameters(rule))),
        ("Likely causes", _listed(page.causes)),
        ("Try first", _listed(rule.advice.splitlines())),
        ("Where the limit comes from", [_paragraph(page.limit)]),
        ("Beside other rules", [_beside(rule, known.values())]),
        ("Change it", [_change(rule)]),
    ]
    lines = [f"{rule.id} ({rule.severity})"]
    for heading, paragraphs in sections:
        if any(paragraphs):
            lines += [f"\n{heading}"] if heading else []
            lines += paragraphs
    return "\n".join(lines) + "\n"


def summary(rule: Rule) -> str:
    """Why a rule is there, in its page's first sentence; empty where it has no page."""
    return "" if rule.page is None else re.split(r"(?<! al)[.:;] ", rule.page.why)[0].rstrip(".") + "."


def _watched(rule: Rule) -> str:
    about = inspect.getdoc(CONDITIONS[rule.condition]) or ""
    first = about.split("\n\n")[0].replace("\n", " ").replace("`", "")
    series = f"Series, the first that is there: {', '.join(rule.keys)}. Without it: unknown."
    return f"{_paragraph(first)}\n{_paragraph(series)}"


def _believed(rule: Rule) -> str:
    k, n = rule.persistence
    parts = ["at once" if (k, n) == (1, 1) else f"when {k} of the last {n} rows agree"]
    if rule.warm_up_samples or rule.warm_up_steps:
        parts.append(f"after {rule.warm_up_samples} rows and {rule.warm_up_steps} steps")
    text = f"Believed {', '.join(parts)}. Over after {rule.clear_after} clear rows"
    text += f", then silent for {rule.cooldown_steps} steps." if rule.cooldown_steps else "."
    if rule.critical_after is not None:
        text += f" Critical after {rule.critical_after} steps of it, over all its returns."
    return _paragraph(text)


def _beside(rule: Rule, rules: Iterable[Rule]) -> str:
    holds = ", ".join(rule.silences) or "nothing"
    family = f"{rule.family}.*"
    by = [other.id for other in rules if other.id != rule.id and {rule.id, family} & set(other.silences)]
    return _paragraph(f"Holds back as its consequences: {holds}. Held back by: {', '.join(by) or 'nothing'}.")


def _parameters(rule: Rule) -> list[str]:
    """Each with its value as it is in force, and what it means."""
    lines = []
    for name, parameter in parameters_of(rule.condition).items():
        value = rule.parameters.get(name, parameter.default)
        shown = ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
        setting = f", or the run's {rule.settings[name]}" if name in rule.settings else ""
        lines.append(f"{name} = {shown}{setting}: {parameter.meaning.replace('`', '')}")
    return lines


def _change(rule: Rule) -> str:
    name = next(iter(parameters_of(rule.condition)))
    return _paragraph(f'overrides={{"{rule.id}": {{"{name}": ...}}}}. Off: {{"{rule.id}": {{"enabled": False}}}}.')


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _listed(items: Iterable[str]) -> list[str]:
    wrap = textwrap.TextWrapper(WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    return [wrap.fill(item) for item in items]
