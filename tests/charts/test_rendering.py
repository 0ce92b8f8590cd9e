"""Escaped text reads as it stands, held against a Markdown renderer that nothing here was written with."""

from __future__ import annotations

import html
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.charts.rendering import TEMPLATES, escaped, rendered

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
    page = RENDERER.render(f"| name | other |\n|---|---|\n| {escaped(text)} | end |")
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


def test_every_value_of_a_template_is_escaped() -> None:
    hostile = "<b>|[x](y)"
    about = {"verdict": "v", "verdict_word": "healthy", "scope": "s", "incidents": [], "causes": []}
    report = SimpleNamespace(title=hostile, settings={hostile: hostile}, unknown=[hostile], **about)
    for template, safe in (("report.html", html.escape(hostile)), ("report.md", escaped(hostile))):
        page = rendered(
            template,
            report=report,
            title=hostile,
            sections=[],
            overview="",
            narrow_overview="",
            time_line="",
            blocks=str,
        )
        assert page.count(safe) >= 4 and hostile not in page


@pytest.mark.parametrize("template", sorted(TEMPLATES.iterdir()), ids=lambda path: path.name)
def test_templates_switch_no_escape_off(template: Path) -> None:
    unsafe = re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}|autoescape", template.read_text())
    assert set(unsafe) <= {"{{ address | safe }}", "{{ picture | safe }}"}, "addresses that are made here"
