"""The note says what matters first, fits MLflow, and lets no name say anything in its own right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rldk_tracking.charts.episodes import episodes
from rldk_tracking.charts.note import LENGTH, SHOWN, note
from rldk_tracking.health.alert import Alert
from rldk_tracking.keys import CATALOGUE

markdown_it = pytest.importorskip("markdown_it", reason="the renderer that tests hold Markdown against")
RENDERER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
Make = Callable[..., Alert]
LINKS = {"Charts": "#/experiments/1/runs?compareRunsMode=CHART", "Report": "#/x"}
ROW = {"rldk/health/score": 0.5, "rldk/kl/ref_k3": 0.31, "rldk/kl/ref_k2": 9.0}


def test_quoted_series_are_documented() -> None:
    assert set(SHOWN) <= set(CATALOGUE)


def test_verdict_links_alerts_and_values(make_alert: Make) -> None:
    text = note("warning", 40, ROW, episodes([make_alert()]), LINKS)
    page = RENDERER.render(text).replace("\u2002", "")
    assert text.startswith("**Running, step 40. Warning&#58; kl.high since step 10.** KL to the reference is 0.31")
    assert '<a href="#/experiments/1/runs?compareRunsMode=CHART">Charts</a>' in page
    assert "<td>kl.high</td>\n<td>warning, open</td>\n<td>10</td>" in page
    assert "<td>Lower the learning rate or raise beta.</td>" in page
    assert "<td>rldk/kl/ref_k3</td>\n<td>0.31</td>\n<td>nats per token</td>" in page
    assert "ref_k2" not in page


def test_the_picture_comes_before_the_tables(make_alert: Make) -> None:
    page = RENDERER.render(note("warning", 40, ROW, episodes([make_alert()]), LINKS, "get-artifact?path=a.svg&step=40"))
    assert (
        page.index("Report</a>") < page.index('<img src="get-artifact?path=a.svg&amp;step=40"') < page.index("<table>")
    )
    assert "<img" not in RENDERER.render(note("warning", 40, ROW, episodes([make_alert()]), LINKS))


def test_without_alerts_there_is_no_table_of_them() -> None:
    assert "what to try" not in note("running", 1, ROW, [], LINKS)


def test_a_hostile_message_says_nothing_in_its_own_right(make_alert: Make) -> None:
    alert = make_alert(message="</td><script>alert(1)</script> | [x](javascript:alert(1))", advice="<img src=x>")
    page = RENDERER.render(note("warning", 40, {}, episodes([alert]), {}))
    assert "<script" not in page
    assert "<img" not in page
    assert "href" not in page


def test_a_hundred_long_alerts_fit(make_alert: Make) -> None:
    many = [make_alert(f"family.rule_{n}", message="*" * 390, advice="|" * 390) for n in range(100)]
    text = note("warning", 40, ROW, episodes(many), LINKS)
    assert len(text) <= LENGTH
    assert "more in rldk/alerts.json." in text
    assert "rldk/kl/ref&#95;k3" in text
    shown = text.count("warning, open")
    assert 1 <= shown < 100
    assert f"{100 - shown} more" in text
