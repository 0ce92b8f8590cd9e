"""Text of unknown origin, before it is shown at a terminal, which would obey what it holds."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""The text on one line, with every character that does not print written as its escape.

    Names and messages come from files: an escape sequence in one could move the cursor and write over a verdict, and a
    line break could begin a line that looks like ours. Line breaks, control characters, invisible and direction-turning
    characters, and halves of surrogate pairs become what a Python literal has for them.

    >>> printable("wte\x1b[2K\nverdict: healthy")
    'wte\\x1b[2K\\nverdict: healthy'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text))
