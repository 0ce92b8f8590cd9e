"""The report says what happened, stands alone, and lets no name speak."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.report import Report, blocks
from rldk_tracking.charts.spec import REWARDS
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.verdict import Coverage

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


def report(**changes: Any) -> Report:
    steps = range(1, 41)
    series = {
        "rldk/health/score": [(step, 1.0 if step < 20 else 0.5) for step in steps],
        "rldk/kl/ref_k3": [(step, 0.01 * step) for step in steps],
        "rldk/kl/limit": [(step, 0.2) for step in steps],
        "rldk/reward/mean": [(step, 0.5) for step in steps],
        "loss": [(step, 1.0) for step in steps],
    }
    fields: dict[str, Any] = {"title": "try", "series": series, "status": "finished", "trainer": "GRPOTrainer"}
    return Report(**(fields | changes))


def test_verdict_time_line_alerts_and_charts(make_alert: Make) -> None:
    page = Page(report(alerts=[make_alert(step=22, first_step=20)], settings={"beta": 0.02}).html())
    text = "\n".join(page.texts)
    assert "Finished, step 40. Warning: kl.high since step 20." in text
    assert "Lower the learning rate or raise beta." in text
    headings = re.findall(r"<h2>(.*?)</h2>", report(alerts=[make_alert()], settings={"beta": 0.02}).html())
    assert headings == ["Alerts", "Health and alerts", "Rollouts", "KL and policy"]
    assert "Settings" in page.texts, "folded, below the charts"
    assert "Value and advantage" not in text
    assert sum(tag == "svg" for tag, _ in page.tags) == 1 + 1 + 3 + 3, "a picture of a time line and 3 plots; 3 charts"
    dashed = [attributes for tag, attributes in page.tags if tag == "polyline" and "stroke-dasharray" in attributes]
    assert len(dashed) == 2
    shades = sum(tag == "rect" and "opacity" in attributes for tag, attributes in page.tags)
    assert shades == 3 + 1, "in every plot of the picture, and in the chart of the alert's series"


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
    assert text.index("<h2>Rollouts") < text.index("Rewards (0.5 to 1)") < text.index("<h2>KL and policy")


def test_it_says_which_steps_it_covers() -> None:
    assert "This page covers steps 1 to 40." in report().html()
    assert "This page covers steps 1 to 40." in report().markdown()
    assert "steps up to 7 are in its series only" in report(resumed_after=7).html()


def test_it_stands_alone() -> None:
    page = Page(report(heatmaps=heatmaps("Rewards")).html())
    assert not {"script", "link", "iframe", "object", "embed", "img", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"href", "src", "srcset", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"url\(|@import", report().html())


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
    assert text.count(html.escape(HOSTILE)) >= 6
    assert HOSTILE not in text
    assert "<script>" not in hostile.markdown()


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
    ("coverage", "severity", "colour"),
    [
        (Coverage(30, 1, 9, 5), None, "#2ca02c"),
        (Coverage(3, 10, 9, 1), None, "#7f7f7f"),
        (Coverage(3, 10, 9, 1), "warning", "#ff7f0e"),
    ],
)
def test_only_a_run_of_which_enough_was_judged_is_green(
    coverage: Coverage, severity: str | None, colour: str, make_alert: Make
) -> None:
    series = {key: [(4, value)] for key, value in coverage.row().items()}
    alerts = [] if severity is None else [make_alert(severity=severity)]
    assert f'class="verdict" style="border-color: {colour}"' in Report("r", series, alerts).html()
