"""Panels in a W&B run, read back from what the run stored, and the definition by which W&B draws heat-maps."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.charts import panels as panels_module
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.panels import (
    HEATMAP_DEFINITION,
    RunPanels,
    define_heatmap,
    heatmap_chart_id,
    heatmap_panel,
    table_of,
)
from rldk_tracking.charts.pictures import heatmap_svg
from rldk_tracking.charts.spec import GRADIENTS, REWARDS
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.wandb import WandbTracker
from tests.trackers.wandb_log import load_finished

pytestmark = pytest.mark.slow

wandb = pytest.importorskip("wandb", reason="needs wandb")
Make = Callable[..., Alert]
ROW = {"rldk/health/score": 1.0, "rldk/kl/ref_k3": 0.1, "rldk/reward/mean": 0.5}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield tmp_path
    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()


def rows_of(table: Any) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.data]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Names of the pictures of each process that would have been started."""
    asked: list[list[str]] = []
    monkeypatch.setattr(panels_module, "Drawing", lambda report, names: asked.append(sorted(names)))
    return asked


def test_panels_are_made_ever_less_often(offline: Path, undrawn: list[list[str]]) -> None:
    with wandb.init(project="p"):
        panels = RunPanels(wandb, RunInfo())
        made = [step for step in range(1, 60) if panels.row(ROW, step)]
    assert made == [5, 30, 55]
    assert undrawn == [["overview"]] * 3


def test_pictures_are_drawn_by_another_process_and_come_with_a_later_row(offline: Path, make_alert: Make) -> None:
    rewards = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (0.75, 1.0)))
    with wandb.init(project="p"):
        panels = RunPanels(wandb, RunInfo())
        panels.alert(make_alert(step=3, first_step=3))
        for step in range(1, 6):
            panels.row(ROW, step)
        panels.heatmap(REWARDS, rewards)
        found: dict[str, Any] = {}
        step, deadline = 6, time.monotonic() + 60
        while not {"rldk/charts/overview", REWARDS} <= set(found) and time.monotonic() < deadline:
            found |= panels.row(ROW, step)
            step += 1
            time.sleep(0.05)
    assert ">kl.high</text>" in found["rldk/charts/overview"].html
    assert found[REWARDS].html == heatmap_svg(rewards)


def test_where_no_process_can_be_started_there_are_no_pictures(
    offline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(panels_module, "Drawing", refuse)
    with wandb.init(project="p"), caplog.at_level("INFO", "rldk_tracking"):
        panels = RunPanels(wandb, RunInfo())
        made = [step for step in range(1, 60) if panels.row(ROW, step)]
        assert set(panels.at_end("finished", "try")) == {"rldk/charts/reward_against_kl"}
    assert made == [5, 30, 55], "the tables"
    assert caplog.text.count("no more processes") == 1


def test_an_alert_late_in_a_long_run_is_shown_soon(offline: Path, make_alert: Make, undrawn: list[list[str]]) -> None:
    with wandb.init(project="p"):
        panels = RunPanels(wandb, RunInfo())
        made = []
        for step in range(1, 1101):
            if step == 1010:
                panels.alert(make_alert(step=step))
            if panels.row(ROW, step):
                made.append(step)
    before, after = max(step for step in made if step < 1010), min(step for step in made if step >= 1010)
    assert after == max(1010, before + 25)
    assert [step for step in made if step > after] == [], "the news is shown once; the next version has its own time"


def test_only_what_there_is_data_for(offline: Path, make_alert: Make) -> None:
    with wandb.init(project="p"):
        panels = RunPanels(wandb, RunInfo())
        assert panels.at_end("finished", "try") == {}
        panels.row({"rldk/health/score": 1.0}, 1)
        assert set(panels.at_end("finished", "try")) == {"rldk/charts/report", "rldk/charts/overview"}
        panels.row(ROW, 2)
        panels.alert(make_alert())
        names = ("overview", "reward_against_kl", "alerts", "report")
        found = panels.at_end("finished", "try")
        assert set(found) == {f"rldk/charts/{name}" for name in names}
        assert "lr.spike" not in found["rldk/charts/overview"].html
        assert ">kl.high</text>" in found["rldk/charts/overview"].html


def test_a_heat_map_is_a_picture_a_table_and_where_it_is_a_distribution_a_histogram(offline: Path) -> None:
    rewards = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (0.75, 1.0)), edges=(0.0, 1.0, 2.0))
    layers = Heatmap("Gradients", ("embed", "head"), (1,), ((0.1,), (0.2,)))
    with wandb.init(project="p"):
        panels = RunPanels(wandb, RunInfo())
        panels.row(ROW | {"rldk/grad/norm": 1.0}, 5)
        made = panels.heatmap("rldk/charts/reward_distribution", rewards)
        assert set(panels.heatmap("rldk/charts/layer_gradients", layers)) == {"rldk/charts/layer_gradients_table"}
        end = panels.at_end("finished", "try")
    report = end["rldk/charts/report"].html
    assert end["rldk/charts/reward_distribution"].html == heatmap_svg(rewards)
    assert end["rldk/charts/layer_gradients"].html == heatmap_svg(layers)
    assert rows_of(made["rldk/charts/reward_distribution_table"])[0] == {
        "global_step": 1,
        "row": "1 to 2",
        "value": 0.25,
    }
    histogram = made["rldk/charts/reward_distribution_histogram"]
    assert (list(histogram.histogram), list(histogram.bins)) == ([1.0, 0.0], [0.0, 1.0, 2.0])
    assert heatmap_svg(rewards) in report
    assert heatmap_svg(layers) in report


def test_the_tables_hold_the_series_and_the_alerts(offline: Path, make_alert: Make) -> None:
    with wandb.init(project="p"):
        panels = RunPanels(wandb, RunInfo())
        for step in (1, 2):
            panels.row(ROW | {"rldk/kl/ref_k3": 0.1 * step}, step)
        panels.alert(make_alert("old.one", step=1, first_step=1))
        panels.alert(make_alert("old.one", state="resolved", step=2))
        panels.alert(make_alert(step=2, first_step=2))
        made = panels.panels()
    points = rows_of(made["rldk/charts/reward_against_kl"].table)
    assert points == [{"kl": 0.1, "reward": 0.5, "global_step": 1}, {"kl": 0.2, "reward": 0.5, "global_step": 2}]
    assert [(row["rule"], row["step"], row["state"]) for row in rows_of(made["rldk/charts/alerts"])] == [
        ("old.one", 1, "firing"),
        ("old.one", 2, "resolved"),
        ("kl.high", 2, "firing"),
    ]


def test_a_version_of_the_table_of_alerts_holds_what_is_new(offline: Path, make_alert: Make) -> None:
    run = wandb.init(project="p")
    panels = RunPanels(wandb, RunInfo())
    panels.alert(make_alert("first.one"))
    run.log(panels.panels())
    assert panels.panels() == {}, "nothing new"
    panels.alert(make_alert("second.one"))
    panels.alert(make_alert("second.one", state="resolved"))
    run.log(panels.panels())
    wandb.finish()
    files = offline.glob("wandb/offline-run-*/files/media/table/rldk/charts/alerts_*.json")
    rules = [[row[3] for row in json.loads(path.read_text())["data"]] for path in sorted(files)]
    assert rules == [["first.one"], ["second.one", "second.one"]]


def test_a_run_ends_with_its_panels_and_its_report(offline: Path, make_alert: Make) -> None:
    run = wandb.init(project="p", name="try")
    tracker = WandbTracker()
    tracker.open(RunInfo(trainer="GRPOTrainer"))
    tracker.log(ROW, 1)
    tracker.log(ROW, 2)
    tracker.alert(make_alert(step=2, first_step=2))
    tracker.status("running", {}, 2)
    tracker.status("finished", {}, 2)
    tracker.close()
    run.finish()
    log = load_finished(offline)
    shown = [row for row in log.rows if "rldk/charts/report/path" in row]
    assert len(shown) == 1
    assert shown[0]["train/global_step"] == 2
    assert shown[0]["rldk/charts/reward_against_kl_table/_type"] == "table-file"
    assert shown[0]["rldk/charts/alerts/_type"] == "incremental-table-file"
    assert log.series("rldk/kl/ref_k3") == [(1, 0.1), (2, 0.1)]
    (report,) = (path for path in offline.rglob("*.html") if "report" in path.name)
    assert "Finished, step 2. Warning: kl.high since step 2." in report.read_text()


class RefusedByServerError(Exception):
    """Stands for what W&B's API raises."""


def wandb_that(answer: Any) -> Any:
    def create_custom_chart(**given: Any) -> str:
        if isinstance(answer, Exception):
            raise answer
        return f"{given['entity']}/{given['name']}"

    return SimpleNamespace(Api=lambda: SimpleNamespace(create_custom_chart=create_custom_chart))


def test_the_definition_reads_the_table_that_the_panel_names() -> None:
    text = json.dumps(HEATMAP_DEFINITION)
    made = heatmap_panel(SimpleNamespace(CustomChart=lambda **given: given), "team/chart", REWARDS)
    assert set(re.findall(r"\$\{field:(\w+)\}", text)) == set(made["chart_fields"])
    assert set(re.findall(r"\$\{string:(\w+)\}", text)) == set(made["chart_strings"])
    assert HEATMAP_DEFINITION["data"] == {"name": "wandb"}
    assert made["query"] == {"summaryTable": {"tableKey": table_of(REWARDS)}}


def test_without_the_definition_the_picture_is_shown() -> None:
    made = heatmap_panel(SimpleNamespace(MediaBrowser=lambda **given: given), None, GRADIENTS)
    assert made["media_keys"] == [GRADIENTS]


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        (None, True),
        (RefusedByServerError("a chart of that name already exists"), True),
        (RefusedByServerError("permission denied"), False),
    ],
)
def test_what_the_server_answers(answer: Any, known: bool) -> None:
    found = define_heatmap(wandb_that(answer), "team", (RefusedByServerError,))
    assert found == (heatmap_chart_id("team") if known else None)


def test_other_faults_are_let_out() -> None:
    with pytest.raises(KeyError):
        define_heatmap(wandb_that(KeyError("x")), "team", (RefusedByServerError,))
