"""A page of text for a rule: what it watches, why, likely causes, what to try first, where its limit comes from.

`rldk-tracking explain RULE` prints it.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.failures import RULE_FAILED
from rldk_tracking.health.pages import PAGES
from rldk_tracking.health.rules import Rule

WIDTH = 100
FAILED_PAGE = (
    "A rule raised an exception while it judged a row. It is switched off for the rest of the run, so that nothing is "
    "known of what it watches for; the row is stored and the other rules go on. The alert names the rule and the "
    "exception, the log of the training has the traceback. It is no fault of the training."
)


def explain(name: str, rule: Rule | None = None) -> str:
    """The page.

    Args:
        name: id of a rule.
        rule: as it is in force, where overrides changed it or a user wrote it; else the built-in one.

    Raises:
        KeyError: there is no such rule; the message names the nearest.
    """
    rule = RULES.get(name) if rule is None else rule
    if rule is None and name == RULE_FAILED:
        return f"{RULE_FAILED} (warning)\n{_paragraph(FAILED_PAGE)}\n"
    if rule is None:
        near = difflib.get_close_matches(name, RULES, 3, 0.4) or sorted(RULES)
        raise KeyError(f"no rule {name!r}; there are {', '.join(near)}")
    page = PAGES.get(name)
    sections = [f"{rule.id} ({rule.severity})"]
    if page is not None:
        sections.append(_paragraph(page.why))
    sections += [_heading("Fires when"), _watched(rule), _believed(rule)]
    if page is not None:
        sections += [_heading("Likely causes"), _listed(page.causes), _heading("Try first"), _listed(page.try_first)]
        sections += [_heading("Where the limit comes from"), _paragraph(page.limit)]
    elif rule.advice:
        sections += [_heading("Try first"), _paragraph(rule.advice)]
    sections += [_heading("Beside other rules"), _beside(rule)]
    sections += [_heading("Change it"), _change(rule)]
    return "\n".join(sections) + "\n"


def summary(rule: Rule) -> str:
    """Why a rule is there, in its page's first sentence; empty where it has no page."""
    page = PAGES.get(rule.id)
    return "" if page is None else re.split(r"(?<! al)[.:;] ", page.why)[0].rstrip(".") + "."


def _watched(rule: Rule) -> str:
    about = inspect.getdoc(CONDITIONS[rule.condition]) or ""
    first = about.split("\n\nArgs:")[0].split("\n\n")[0].replace("\n", " ").replace("`", "")
    lines = [
        _paragraph(first),
        _paragraph(f"Series, the first that is there: {', '.join(rule.keys)}. Without it: unknown."),
    ]
    if rule.parameters:
        given = ", ".join(f"{name} {value}" for name, value in rule.parameters.items())
        lines.append(_paragraph(f"With: {given}."))
    return "\n".join(lines)


def _believed(rule: Rule) -> str:
    k, n = rule.persistence
    parts = ["at once" if (k, n) == (1, 1) else f"when {k} of the last {n} rows agree"]
    if rule.warm_up_samples or rule.warm_up_steps:
        parts.append(f"after {rule.warm_up_samples} rows and {rule.warm_up_steps} steps")
    text = f"Believed {', '.join(parts)}. Over after {rule.clear_after} clear rows"
    text += f", then silent for {rule.cooldown_steps} steps." if rule.cooldown_steps else "."
    if rule.critical_after is not None:
        text += f" Critical after {rule.critical_after} steps."
    return _paragraph(text)


def _beside(rule: Rule) -> str:
    holds = ", ".join(rule.silences) or "nothing"
    family = f"{rule.family}.*"
    by = [other.id for other in RULES.values() if other.id != rule.id and {rule.id, family} & set(other.silences)]
    return _paragraph(f"Holds back as its consequences: {holds}. Held back by: {', '.join(by) or 'nothing'}.")


def _change(rule: Rule) -> str:
    values = {
        name: rule.parameters.get(name, parameter.default)
        for name, parameter in inspect.signature(CONDITIONS[rule.condition].__init__).parameters.items()
        if name not in ("self", "keys")
    }
    example = f'overrides={{"{rule.id}": {{"{next(iter(values))}": ...}}}}'
    switch = f'{{"{rule.id}": {{"enabled": False}}}}'
    given = ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not inspect.Parameter.empty)
    return _paragraph(f"{example}; parameters, as they are: {given}. Off: {switch}.")


def _heading(text: str) -> str:
    return f"\n{text}"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _listed(items: tuple[str, ...]) -> str:
    return "\n".join(
        textwrap.fill(item, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
        for item in items
    )
