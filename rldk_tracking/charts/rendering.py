"""Pages from the templates beside this file: HTML and Markdown, in which every value is escaped.

Text is of unknown origin: names of reward functions, runs and settings may hold anything.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATES = Path(__file__).with_name("templates")
MOST_CHARACTERS = 400
"""Of a value in Markdown."""
_MARKS = re.compile(r"[\\`*_{}\[\]<>()#|~$!&:@^=]")
_LINK = re.compile(r"\bwww\.", re.IGNORECASE)


def rendered(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: file in the folder of templates, `.html` or `.md`.
        values: what it names.
    """
    environment = _environment(is_markdown=template.endswith(".md"))
    text = environment.get_template(template).render(values).strip() + "\n"
    return re.sub(r"\n{3,}", "\n\n", text) if template.endswith(".md") else text


@functools.cache
def _environment(is_markdown: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_as_markdown if is_markdown else None,
    )


def _as_markdown(value: Any) -> Any:
    """Each value of a template, before HTML's own escapes, which leave what is `Markup` as it is."""
    return value if isinstance(value, (Markup, jinja2.Undefined)) else Markup(escaped(value))  # noqa: S704


def escaped(text: object, most: int = MOST_CHARACTERS) -> str:
    """The text as it stands, on one line, without any meaning in Markdown or HTML; at most `most` characters of it.

    >>> escaped("reward|<b>")
    'reward&#124;&#60;b&#62;'
    """
    plain = " ".join(str(text).split())
    plain = "".join(character for character in plain if character.isprintable())
    if len(plain) > most:
        plain = plain[: most - 1] + "…"
    # Entities, since renderers differ in what a backslash escapes; a bare address would become a link by itself.
    safe = _MARKS.sub(lambda found: f"&#{ord(found.group())};", plain)
    return _LINK.sub(lambda found: f"{found.group()[:-1]}&#46;", safe)
