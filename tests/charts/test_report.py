"""The report says what happened, stands alone, and lets no name speak; so does the note, which fits MLflow besides."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import astuple
from html.parser import HTMLParser
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import incidents_of
from rldk_tracking.charts.report import NOTE_CHARACTERS, QUOTED_SERIES, Report, blocks, comparison, note
from rldk_tracking.charts.spec import REWARDS
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.verdict import Coverage
from rldk_tracking.metrics.keys import CATALOGUE

markdown_it = pytest.importorskip("markdown_it", reason="the renderer that tests hold Markdown against")

Make = Callable[..., Alert]
HOSTILE = "<script>alert('x')</script>|[a](javascript:b)"


class Page(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def row_of(coverage: Coverage) -> dict[str, float]:
    names = ("rules_judged", "rules_warming_up", "rules_without_data", "core_rules_judged")
    return {f"rldk/alerts/{name}": float(n) for name, n in zip(names, astuple(coverage), strict=True)}


def report(**changes: Any) -> Report:
    steps = range(1, 41)
    series = {
        "rldk/health/score": [(step, 1.0 if step < 20 else 0.5) for step in steps],
        "rldk/kl/ref_k3": [(step, 0.01 * step) for step in steps],
        "rldk/kl/limit": [(step, 0.2) for step in steps],
        "rldk/reward/mean": [(step, 0.5) for step in steps],
        "rldk/unknown/series": [(step, 1.0) for step in steps],
    }
    fields: dict[str, Any] = {"title": "try", "series": series, "status": "finished", "trainer": "GRPOTrainer"}
    return Report(**(fields | changes))


def test_verdict_time_line_alerts_and_charts(make_alert: Make) -> None:
    page = Page(report(alerts=[make_alert(step=22, first_step=20)], settings={"beta": 0.02}).html())
    text = "\n".join(page.texts)
    assert "Finished, step 40. Warning: kl.high since step 20." in text
    assert "Lower the learning rate or raise beta." in text
    headings = re.findall(r"<h2>(.*?)</h2>", report(alerts=[make_alert()], settings={"beta": 0.02}).html())
    assert headings == ["Health and alerts", "Rollouts", "KL and policy"]
    assert "Value and advantage" not in text
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 + 3, "a picture for a wide and a narrow page; 3 charts"
    drawn = [attributes.get("id") for tag, attributes in page.tags if tag == "g"]
    assert drawn.count("limit") == 2 + 1, "in the chart of KL and in the same of the picture"
    assert drawn.count("shade kl.high") == 2 * 3 + 3, "in every chart"


def test_the_first_screen_says_what_is_wrong_and_what_to_try(make_alert: Make) -> None:
    text = report(alerts=[make_alert(step=22, first_step=20)], settings={"beta": 0.02}).html()
    places = [text.index(f">{part}<") for part in ("try", "Finished, step 40. Warning: kl.high since step 20.")]
    places += [text.index('<div class="wide">'), text.index("<strong>kl.high</strong>")]
    places += [text.index("Lower the learning rate or raise beta."), text.index("<h2>"), text.index("<details>")]
    assert places == sorted(places)
    assert "<details open" not in text


def test_alerts_that_do_not_fit_beside_the_picture_have_a_list_of_their_own(make_alert: Make) -> None:
    many = [make_alert(f"family.rule_{number}") for number in range(5)]
    text = report(alerts=many).html()
    assert [text.count(f"<strong>family.rule_{number}</strong>") for number in range(5)] == [2, 2, 2, 1, 1]
    assert "<h2>Alerts</h2>" in text and "<h2>Alerts</h2>" not in report(alerts=many[:3]).html()
    info = report(alerts=[make_alert("reward.saturated", severity="info")]).html()
    assert info.count("<strong>reward.saturated</strong>") == 1


def test_it_fits_a_phone(make_alert: Make) -> None:
    text = report(alerts=[make_alert()], heatmaps=heatmaps("Rewards")).html()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"(?<![-\w])width: *\d+px", style.replace("width: 22px", "").replace("max-width: 700px", ""))
    assert "prefers-color-scheme: dark" in style


def test_what_an_alert_holds_back_is_named() -> None:
    limit = {"condition": "level", "parameters": {"threshold": 1.0}}
    cause = Rule(id="nan.mine", keys=("x",), silences=("user.*",), **limit)
    rules = [cause, Rule(id="user.high", keys=("y",), **limit)]
    alerts = Engine(rules).update(20, {"x": 2.0, "y": 2.0})
    assert [alert.rule for alert in alerts] == ["nan.mine"]
    assert "With it: user.high." in report(alerts=alerts).html()
    assert "With it&#58; user.high." in report(alerts=alerts).markdown()


def heatmaps(name: str) -> dict[str, Heatmap]:
    return {REWARDS: Heatmap(name, (name, "0 to 1"), (1, 20), ((0.5, None), (0.5, 1.0)))}


def test_a_heat_map_stands_in_its_section() -> None:
    text = report(heatmaps=heatmaps("Rewards")).html()
    assert text.index("<h2>Rollouts") < text.index(">Rewards</text>") < text.index("<h2>KL and policy")


def test_it_says_which_steps_it_covers() -> None:
    assert "This page covers steps 1 to 40." in report().html()
    assert "This page covers steps 1 to 40." in report().markdown()
    assert "steps up to 7 are in its series only" in report(resumed_after=7).html()


def test_it_stands_alone() -> None:
    page = Page(report(heatmaps=heatmaps("Rewards")).html())
    assert not {"script", "link", "iframe", "object", "embed", "img", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"href", "src", "srcset", "action"} & set(attributes)
        assert (attributes.get("xlink:href") or "#").startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"url\((?!#)|@import", report(heatmaps=heatmaps("Rewards")).html())


def test_hostile_names_are_shown_and_do_nothing(make_alert: Make) -> None:
    alert = make_alert(HOSTILE, message=HOSTILE, advice=HOSTILE, key="rldk/kl/ref_k3")
    key = f"rldk/reward/function/{HOSTILE}/mean"
    hostile = report(
        title=HOSTILE,
        alerts=[alert],
        settings={HOSTILE: HOSTILE},
        unknown=[HOSTILE],
        heatmaps=heatmaps(HOSTILE),
        series={**report().series, key: [(1, 1.0), (2, 2.0)]},
    )
    text = hostile.html()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert html.unescape(text).count(HOSTILE) >= 6
    assert HOSTILE not in text
    assert "<script>" not in hostile.markdown()
    side_by_side = comparison([hostile, report(title=f"{HOSTILE}2", settings={HOSTILE: 1})])
    assert "script" not in {tag for tag, _ in Page(side_by_side).tags}
    assert HOSTILE not in side_by_side and html.unescape(side_by_side).count(HOSTILE) >= 6


def test_the_markdown_has_the_same_facts(make_alert: Make) -> None:
    text = report(alerts=[make_alert(step=22, first_step=20)], settings={"beta": 0.02}, unknown=["lr.zero"]).markdown()
    assert text.startswith("# try\n\n**Finished, step 40. Warning&#58; kl.high since step 20.**")
    assert "| rldk/kl/ref&#95;k3 | 0.01 | 0.4 | 0.01 | 0.4 | ▁" in text
    assert "Lower the learning rate or raise beta." in text
    assert "| beta | 0.02 |" in text
    assert "lr.zero" in text
    assert "## Value" not in text


def test_a_run_without_data_is_not_called_healthy() -> None:
    empty = report(series={}, status="")
    assert "Nothing is known about its health" in empty.html()
    assert "Nothing is known about its health" in empty.markdown()
    assert empty.span == (0, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 1.0], "▁█"), ([1.0, 1.0, 1.0], "▄▄▄"), ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█")],
)
def test_blocks(values: list[float], expected: str) -> None:
    assert blocks(values) == expected


def test_many_values_are_as_many_blocks_as_fit() -> None:
    line = blocks([float(n) for n in range(1000)], 8)
    assert line == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize(
    ("coverage", "severity", "word"),
    [
        (Coverage(30, 1, 9, 5), None, "healthy"),
        (Coverage(3, 10, 9, 1), None, "unknown"),
        (Coverage(3, 10, 9, 1), "warning", "warning"),
    ],
)
def test_only_a_run_of_which_enough_was_judged_is_green(
    coverage: Coverage, severity: str | None, word: str, make_alert: Make
) -> None:
    series = {key: [(4, value)] for key, value in row_of(coverage).items()}
    alerts = [] if severity is None else [make_alert(severity=severity)]
    page = Report("r", series, alerts).html()
    assert f'<p class="verdict {word}">' in page
    colours = {"healthy": "#009e73", "unknown": "#7f7f7f", "warning": "#e69f00"}
    assert f"--{word}: {colours[word]}" in page and f".{word} {{ border-color: var(--{word}) }}" in page


def test_it_comes_back_from_json_as_it_was(make_alert: Make) -> None:
    made = report(alerts=[make_alert()], heatmaps=heatmaps("Rewards"), settings={"beta": 0.02})
    assert Report.of(json.loads(json.dumps(made.as_dict()))).html() == made.html()


def test_runs_side_by_side(make_alert: Make) -> None:
    other = report(title="other", settings={"beta": 0.1, "seed": 1}, trainer="PPOTrainer")
    text = comparison([report(alerts=[make_alert(step=22, first_step=20)], settings={"beta": 0.02, "seed": 1}), other])
    page = Page(text)
    said = "\n".join(page.texts)
    assert "Finished, step 40. Warning: kl.high since step 20." in said and "Lower the learning rate" in said
    assert re.findall(r"<h3>.*?</span>(.*?)</h3>", text) == ["try", "other"]
    assert "<td>beta</td><td>0.02</td><td>0.1</td>" in text and "<td>seed</td>" not in text
    drawn = [attributes.get("id") for tag, attributes in page.tags if tag == "g"]
    assert drawn.count("try") == drawn.count("other") == 3, "a line in each chart"
    assert text.index("Settings that differ") < text.index("<h2>Rollouts")


def test_runs_of_one_name_are_told_apart() -> None:
    text = comparison([report(), report()])
    assert re.findall(r"<h3>.*?</span>(.*?)</h3>", text) == ["try (1)", "try (2)"]
    assert "None of those that are known." in text


def test_a_run_that_lacks_a_series_is_compared_in_the_others() -> None:
    text = comparison([report(), report(title="other", series={"rldk/reward/mean": [(1, 0.5)]})])
    drawn = [attributes.get("id") for tag, attributes in Page(text).tags if tag == "g"]
    assert (drawn.count("try"), drawn.count("other")) == (3, 1)


NOTE_RENDERER = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")


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


def test_how_much_of_the_trainer_is_read_stands_before_the_tables(make_alert: Make) -> None:
    alerts = incidents_of([make_alert()])
    text = note("warning", 40, ROW, alerts, LINKS, "", "Read: 4 of 5 series of this trainer; not: rldk/kl/ref_k1.")
    assert 0 < text.index("Read&#58; 4 of 5 series") < text.index("| alert")
    assert "Read" not in note("warning", 40, ROW, alerts, LINKS)


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
