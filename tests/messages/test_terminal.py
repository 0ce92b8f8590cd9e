"""What would be obeyed by a terminal is shown to a person instead."""

from __future__ import annotations

import unicodedata

import pytest

from rldk_tracking.messages.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("reward/mean", "reward/mean"),
        ("\x1b]0;title\x07\x1b[2Kverdict: healthy", r"\x1b]0;title\x07\x1b[2Kverdict: healthy"),
        ("wte\nverdict: healthy\r", r"wte\nverdict: healthy\r"),
        ("a\u202eb\u2028c\x9bd\u200be", r"a\u202eb\u2028c\x9bd\u200be"),
        ("half \ud800", r"half \ud800"),
        ("größer 报酬 →", "größer 报酬 →"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_anything_can_be_shown() -> None:
    assert printable(None) == "None"
    assert printable(ValueError("a\nb")) == r"a\nb"


def test_no_character_of_unicode_moves_the_cursor() -> None:
    shown = printable("".join(map(chr, range(0x110000))))
    shown.encode("utf-8")
    assert {unicodedata.category(sign)[0] for sign in shown if sign != " "} <= set("LMNPS")
