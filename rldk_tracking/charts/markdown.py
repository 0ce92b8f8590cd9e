"""Text of unknown origin in Markdown: names of reward functions, runs and settings may hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"[\\`*_{}\[\]<>()#|~$!&:@^=]")
_LINK = re.compile(r"\bwww\.", re.IGNORECASE)


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
