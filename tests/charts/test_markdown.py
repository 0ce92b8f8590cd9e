"""Escaped text reads as it stands, held against a Markdown renderer that nothing here was written with; and the note.

The note says what matters first, fits MLflow, and lets no name say anything in its own right.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.charts.incidents import incidents_of
from rldk_tracking.charts.markdown import NOTE_CHARACTERS, QUOTED_SERIES, escaped, note, table
from rldk_tracking.health.alert import Alert
from rldk_tracking.keys import CATALOGUE

markdown_it = pytest.importorskip("markdown_it", reason="the renderer that tests hold Markdown against")


RENDERER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


HOSTILE = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](https://example.org/pixel.png)",
    "a | b | c",
    "**bold** _it_ `code` ~~gone~~ $x$",
    "line\nbreak\r\n# heading\n\n- item",
    "&lt;b&gt; &amp; \\*",
    "<https://example.org>",
    "</td></tr></table><h1>",
    "reward\\",
]


def cell(text: str) -> str:
    """What a reader sees in a table's cell."""
    page = RENDERER.render(table(("name", "other"), [(escaped(text), "end")]))
    found = re.search(r"<tbody>\s*<tr>\s*<td>(.*?)</td>\s*<td>end</td>\s*</tr>\s*</tbody>", page, re.DOTALL)
    assert found is not None, page
    assert "<" not in found.group(1)
    return html.unescape(found.group(1))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_shown_and_do_nothing(text: str) -> None:
    assert cell(text) == " ".join(text.split())


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60))
def test_any_printable_text_reads_as_it_stands(text: str) -> None:
    assert cell(text) == " ".join(text.split())


@pytest.mark.parametrize("text", ["http://example.org", "www.example.org", "WWW.example.org", "me@example.org"])
def test_bare_addresses_do_not_become_links(text: str) -> None:
    raw = re.sub(r"&#\d+;", " ", escaped(text))
    assert re.search(r"https?://|www\.|\w@\w", raw, re.IGNORECASE) is None
    assert cell(text) == text


def test_what_cannot_be_seen_goes_and_what_is_long_is_cut() -> None:
    assert escaped("a\x00b\u202ec") == "abc"
    assert len(escaped("x" * 1000)) == 400
    assert escaped("x" * 50, 10) == "x" * 9 + "…"


NOTE_RENDERER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")


Make = Callable[..., Alert]


LINKS = {"Charts": "#/experiments/1/runs?compareRunsMode=CHART", "Report": "#/x"}


ROW = {"rldk/health/score": 0.5, "rldk/kl/ref_k3": 0.31, "rldk/kl/ref_k2": 9.0}


def test_quoted_series_are_documented() -> None:
    assert set(QUOTED_SERIES) <= set(CATALOGUE)


def test_verdict_links_alerts_and_values(make_alert: Make) -> None:
    text = note("warning", 40, ROW, incidents_of([make_alert()]), LINKS)
    page = NOTE_RENDERER.render(text).replace("\u2002", "")
    assert text.startswith("**Running, step 40. Warning&#58; kl.high since step 10.** KL to the reference is 0.31")
    assert '<a href="#/experiments/1/runs?compareRunsMode=CHART">Charts</a>' in page
    assert "<td>kl.high</td>\n<td>warning, open</td>\n<td>10</td>" in page
    assert "<td>Lower the learning rate or raise beta.</td>" in page
    assert "<td>rldk/kl/ref_k3</td>\n<td>0.31</td>\n<td>nats per token</td>" in page
    assert "ref_k2" not in page


def test_the_picture_comes_before_the_tables(make_alert: Make) -> None:
    page = NOTE_RENDERER.render(
        note("warning", 40, ROW, incidents_of([make_alert()]), LINKS, "get-artifact?path=a.svg&step=40")
    )
    assert (
        page.index("Report</a>") < page.index('<img src="get-artifact?path=a.svg&amp;step=40"') < page.index("<table>")
    )
    assert "<img" not in NOTE_RENDERER.render(note("warning", 40, ROW, incidents_of([make_alert()]), LINKS))


def test_without_alerts_there_is_no_table_of_them() -> None:
    assert "what to try" not in note("running", 1, ROW, [], LINKS)


def test_a_hostile_message_says_nothing_in_its_own_right(make_alert: Make) -> None:
    alert = make_alert(message="</td><script>alert(1)</script> | [x](javascript:alert(1))", advice="<img src=x>")
    page = NOTE_RENDERER.render(note("warning", 40, {}, incidents_of([alert]), {}))
    assert "<script" not in page
    assert "<img" not in page
    assert "href" not in page


def test_a_hundred_long_alerts_fit(make_alert: Make) -> None:
    many = [make_alert(f"family.rule_{n}", message="*" * 390, advice="|" * 390) for n in range(100)]
    text = note("warning", 40, ROW, incidents_of(many), LINKS)
    assert len(text) <= NOTE_CHARACTERS
    assert "more in rldk/alerts.json." in text
    assert "rldk/kl/ref&#95;k3" in text
    shown = text.count("warning, open")
    assert 1 <= shown < 100
    assert f"{100 - shown} more" in text
