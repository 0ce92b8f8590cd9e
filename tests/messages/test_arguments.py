"""What the checks of arguments say."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any, ClassVar

import numpy
import pytest

from rldk_tracking.messages.arguments import (
    NamedArguments,
    flag,
    folder,
    function,
    listed,
    mapping,
    nearest,
    number,
    printable,
    shown,
    text,
    whole_number,
    word,
)


class Thing:
    """Of which a list is wanted."""


class Other(Thing):
    """One of them."""


def said(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as refused:
        call()
    return str(refused.value)


def test_how_a_value_is_quoted() -> None:
    assert [shown(value) for value in (None, 3, "a", [1])] == ["None", "3", "'a'", "[1]"]
    assert (shown(Thing), shown(Thing()), shown(Other())) == ("the class Thing", "a Thing", "an Other")
    assert len(shown("x" * 500)) <= 62 and len(shown([1] * 500)) < 40
    assert shown(10**6000) == "a number of very many digits"


def test_flags() -> None:
    assert flag("strict", True) is True and flag("strict", False) is False
    assert said(TypeError, lambda: flag("strict", "False")) == "strict must be True or False, got 'False': write False."
    assert said(TypeError, lambda: flag("strict", 1)) == "strict must be True or False, got 1: write True."
    assert said(TypeError, lambda: flag("strict", "maybe")) == "strict must be True or False, got 'maybe'."


def test_numbers() -> None:
    assert number("x", 3) == 3 and number("x", 0.5, low=0, high=1) == 0.5 and whole_number("port", 5, high=9) == 5
    assert said(ValueError, lambda: number("x", 0, above=0, high=1)) == (
        "x must be a number above 0 and at most 1, got 0."
    )
    assert said(ValueError, lambda: number("x", 2, high=1)) == "x must be a number of at most 1, got 2."
    assert said(ValueError, lambda: number("x", float("nan"))) == "x must be a finite number, got nan."
    assert said(ValueError, lambda: number("x", 10**400)).startswith("x must be a finite number, got 1000")
    assert said(TypeError, lambda: whole_number("port", "5000")) == (
        "port must be a whole number, got '5000', a string: write 5000 without quotation marks, "
        "or convert it with int()."
    )
    assert said(TypeError, lambda: whole_number("port", True)) == "port must be a whole number, got True."
    assert said(TypeError, lambda: number("x", numpy.float32(0.5))) == (
        "x must be a finite number, got a float32: convert it with float()."
    )
    assert number("x", numpy.float64(0.5)) == 0.5
    assert said(TypeError, lambda: number("x", "nan")) == "x must be a finite number, got 'nan'."


def test_words() -> None:
    assert word("level", "light", ("light", "full")) == "light"
    assert said(ValueError, lambda: word("level", "ful", ("light", "full"))) == (
        'level must be "light" or "full", got \'ful\'; did you mean "full"?'
    )
    assert said(TypeError, lambda: word("level", 3, ("a", "b", "c"))) == 'level must be "a", "b" or "c", got 3.'


def test_texts_and_folders(tmp_path: Path) -> None:
    assert text("run_id", None, "an id", "...") is None and folder("output_dir", tmp_path, "") == str(tmp_path)
    assert folder("output_dir", "is/not/there", "") == "is/not/there"
    wanted = 'output_dir must be the path of a folder, got 5: write output_dir="rldk_logs", or leave it out.'
    assert said(TypeError, lambda: folder("output_dir", 5, '"rldk_logs"')) == wanted
    assert said(ValueError, lambda: text("run_id", " ", "an id", '"a"')).startswith("run_id must be an id, got ' '")
    (tmp_path / "file").touch()
    assert "is a file: write the folder that it is in" in said(
        ValueError, lambda: folder("output_dir", tmp_path / "file", "")
    )


def test_lists() -> None:
    things = [Thing(), Other()]
    assert listed("trackers", things, Thing, "") == things and listed("trackers", (), Thing, "") == []
    for given, message in (
        ("a", "trackers must be a list of things, got 'a': write trackers=[Thing()]."),
        (Other, "trackers must be a list of things, got the class Other: write trackers=[Other()]."),
        (Other(), "trackers must be a list, got an Other: write trackers=[...] around it."),
        (["a"], "trackers must hold things, got 'a': write trackers=[Thing()]."),
        ([Other], "trackers must hold things, got the class Other: write Other()."),
        (3, "trackers must be a list of things, got 3: write trackers=[Thing()]."),
    ):
        assert said(TypeError, lambda given=given: listed("trackers", given, Thing, "[Thing()]")) == message


def test_mappings() -> None:
    assert mapping("goals", {"a": 1}, "") == {"a": 1}
    assert said(TypeError, lambda: mapping("goals", [1], "goals={}")).startswith("goals must be a mapping, got [1]: wr")
    assert said(TypeError, lambda: mapping("goals", {1: 2}, "goals={}")).startswith("the keys of goals must be strings")


def test_functions() -> None:
    assert function("f", len, ["x"]) is len and function("f", dict.fromkeys, ["a", "b"])
    assert said(TypeError, lambda: function("f", 3, ["a", "b"])) == "f must be callable as f(a, b), got 3."
    assert said(TypeError, lambda: function("f", Thing, ["a"])) == (
        "f must be callable as f(a), got the class Thing: write Thing(...)."
    )
    message = said(TypeError, lambda: function("f", lambda completions: 0, ["a", "b"]))
    assert message.startswith("f must be callable as f(a, b), and its signature is (completions): too many positional")


def test_names_that_are_near() -> None:
    assert nearest("treshold", ["threshold", "x"]) == "; did you mean threshold?"
    assert nearest("zzz", ["a", "b"]) == "; there are a, b."


class Base(NamedArguments):
    """Takes two by name."""

    def __init__(self, *, level: str = "", keep: bool = True) -> None: ...


Base.__module__ = "rldk_tracking.somewhere"


class Handing(Base):
    """Hands on what it does not know."""

    elsewhere: ClassVar[dict[str, str]] = {"kl_threshold": "overrides=..."}

    def __init__(self, first: int = 0, **options: Any) -> None:
        super().__init__(**options)


Handing.__module__ = "rldk_tracking.somewhere"


class OfTheUsers(Base):
    """Takes anything."""

    def __init__(self, **anything: Any) -> None:
        super().__init__()


def test_arguments_that_a_class_does_not_have() -> None:
    assert said(TypeError, lambda: Base(lvel="a")) == "Base has no argument 'lvel'; did you mean level?"  # type: ignore
    assert said(TypeError, lambda: Base("a")) == (  # type: ignore[misc]
        "Base takes 'a' by name only: write Base(NAME='a') with one of level, keep."
    )
    assert said(TypeError, lambda: Handing(1, "a")).startswith("Handing takes 'a' by name only")  # type: ignore[misc]
    assert said(TypeError, lambda: Handing(kep=1)) == "Handing has no argument 'kep'; did you mean keep?"
    assert said(TypeError, lambda: Handing(kl_threshold=1)) == (
        "Handing has no argument 'kl_threshold': write overrides=...."
    )
    assert isinstance(Handing(1, level="a"), Handing) and isinstance(OfTheUsers(whatever=3), OfTheUsers)


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
