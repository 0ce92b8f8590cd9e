"""A run's page in MLflow: note, colour, report and links, and whose they are."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.mlflow import KIND_TAG, VIEW_TAG
from rldk_tracking.charts.page import (
    COLOUR_TAG,
    NOTE,
    OVERVIEW_FILE,
    REPORT_FILE,
    RUN_COLOURS,
    RunPage,
    run_colour,
)
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.rule import Rule
from rldk_tracking.messages.packages import install_line
from rldk_tracking.rollout import RunInfo
from tests.charts.svg import points, texts

Make = Callable[..., Alert]
ROW = {"rldk/health/score": 1.0, "rldk/reward/mean": 0.4, "rldk/kl/ref_k3": 0.01}


class Run:
    """A run and its page."""

    def __init__(self, client: Any, **about: Any) -> None:
        import mlflow

        self.client = client
        self.mlflow = mlflow
        self.experiment = client.create_experiment("tests")
        self.id = client.create_run(self.experiment).info.run_id
        self.info = RunInfo(name="try", trainer="GRPOTrainer", config={"beta": 0.02})
        self.page = self.new_page(**about)

    def new_page(self, place: str = "sqlite:///mlflow.db") -> RunPage:
        return RunPage(self.mlflow, self.client, self.id, self.experiment, self.info, place)

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.client.get_run(self.id).data.tags)

    def report(self) -> str:
        return str(self.mlflow.artifacts.load_text(f"runs:/{self.id}/{REPORT_FILE}"))


@pytest.fixture
def run(client: Any) -> Run:
    return Run(client)


def test_the_first_row_brings_view_note_and_colour(run: Run) -> None:
    run.page.status("running", [])
    assert NOTE not in run.tags
    run.page.row(ROW, 1)
    assert VIEW_TAG in run.client.get_experiment(run.experiment).tags
    assert run.tags[NOTE].startswith("**Running, step 1. No alert so far.**")
    assert "viewStateShareKey=rldk-rl-health" in run.tags[NOTE]
    assert run.tags[COLOUR_TAG] in RUN_COLOURS[None]


def test_an_alert_turns_note_and_colour_and_its_end_turns_them_back(run: Run, make_alert: Make) -> None:
    run.page.row(ROW, 1)
    firing = make_alert(severity="critical", step=1, first_step=1)
    run.page.alert([firing])
    assert "Critical&#58; kl.high since step 1" in run.tags[NOTE]
    assert "Lower the learning rate" in run.tags[NOTE]
    assert "artifacts/rldk/alerts.json" in run.tags[NOTE]
    assert run.tags[COLOUR_TAG] in RUN_COLOURS["critical"]
    run.page.alert([firing, make_alert(state="resolved", step=2)])
    assert "1 earlier one is over" in run.tags[NOTE]
    assert run.tags[COLOUR_TAG] in RUN_COLOURS[None]


def test_a_state_that_changes_again_and_again_does_not_write_the_note_each_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(run.page, "_write_note", lambda: written.append(run.page._status))
    run.page.row(ROW, 1)
    for step in range(2, 100):
        run.page.status("warning" if step % 2 else "running", [])
    assert len(written) == 1
    monkeypatch.setattr(run.page, "_due", 0.0)  # later
    run.page.row(ROW, 100)
    assert written[1:] == ["warning"], "and not at the last state"
    run.page.status("finished", [])
    assert written[2:] == ["finished"], "the end is said at once"


def test_the_note_follows_the_run_but_not_at_every_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("rldk_tracking.charts.page.time.monotonic", lambda: now[0])
    said = []
    for step in range(1, 50):
        now[0] += 1.0
        run.page.row(ROW, step)
        said.append(re.search(r"step (\d+)\.", run.tags[NOTE])[1])  # type: ignore[index]
    assert sorted(set(map(int, said))) == [1, 5, 30], "the first, and with a new picture"
    now[0] += 60.0
    run.page.row(ROW, 50)
    assert "step 50." in run.tags[NOTE]


@pytest.mark.parametrize("status", ["finished", "stopped", "crashed"])
def test_the_end_brings_the_report(run: Run, make_alert: Make, status: str) -> None:
    for step in range(1, 6):
        run.page.row(ROW | {"rldk/kl/ref_k3": 0.1 * step}, step)
    run.page.status(status, [make_alert(step=4, first_step=3)])
    page = run.report()
    assert f"{status.capitalize()}, step 5. Warning: kl.high since step 3." in page
    assert page.count("<svg") >= 4
    assert "beta" in page
    assert f"<h1>{run.client.get_run(run.id).info.run_name}</h1>" in page
    assert f"artifacts/{REPORT_FILE}" in run.tags[NOTE]
    assert run.tags[NOTE].startswith(f"**{status.capitalize()}, step 5.")


def test_a_run_without_rows_gets_nothing(run: Run) -> None:
    run.page.status("running", [])
    run.page.status("finished", [])
    assert NOTE not in run.tags
    assert run.client.list_artifacts(run.id) == []


def test_the_note_shows_what_broke(run: Run, make_alert: Make) -> None:
    run.page.row(ROW, 1)
    run.page.alert([make_alert(step=1, first_step=1)])
    picture = str(run.mlflow.artifacts.load_text(f"runs:/{run.id}/{OVERVIEW_FILE}"))
    assert ">kl.high</text>" in picture
    assert f"](get-artifact?path=rldk/charts/overview.svg&run_uuid={run.id}&step=1)" in run.tags[NOTE]


def test_the_note_names_what_an_alert_holds_back(run: Run) -> None:
    limit = {"condition": "level", "parameters": {"threshold": 1.0}}
    cause = Rule(id="nan.mine", keys=("x",), silences=("user.*",), **limit)
    rules = [cause, Rule(id="user.high", keys=("y",), **limit)]
    run.page.row(ROW, 1)
    run.page.alert(Engine(rules).update(1, {"x": 2.0, "y": 2.0}))
    assert "With it&#58; user.high." in run.tags[NOTE]


class Clock:
    """Time that passes only when a test says so, and drawings that take as long as it says."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch, drawing_s: float) -> None:
        self.now, self.used, self.stored = 1000.0, 0.0, []  # type: ignore[var-annotated]
        monkeypatch.setattr("rldk_tracking.charts.page.time.monotonic", lambda: self.now)
        monkeypatch.setattr("rldk_tracking.charts.page.time.thread_time", lambda: self.used)

        def log_text(_: str, text: str, name: str) -> None:
            if name.endswith(".svg"):
                self.stored.append((self.now, name))

        def overview(*_: Any) -> str:
            self.used += drawing_s
            return "<svg/>"

        monkeypatch.setattr(run.client, "log_text", log_text)
        monkeypatch.setattr(run.page, "_write_note", lambda: None)
        monkeypatch.setattr("rldk_tracking.charts.pictures.overview", overview)


def test_drawing_takes_little_of_the_time(run: Run, make_alert: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(run, monkeypatch, drawing_s=0.5)
    alerts: list[Alert] = []
    for step in range(1, 501):
        clock.now += 1.0
        run.page.row(ROW, step)
        alerts.append(make_alert(f"family.rule_{step}", step=step, first_step=step))
        run.page.alert(alerts)
    times = [at for at, _ in clock.stored]
    assert times[0] == 1001.0, "the first alert is drawn at once"
    assert len(times) == 5 and all(later - earlier >= 100 for earlier, later in pairwise(times))
    run.page.status("finished", alerts)
    assert clock.stored[-1] == (clock.now, OVERVIEW_FILE), "and the end always"


def test_what_has_not_changed_is_not_drawn_again(run: Run, make_alert: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(run, monkeypatch, drawing_s=0.0)
    alerts = [make_alert(step=1, first_step=1)]
    for step in range(1, 301):
        clock.now += 61.0
        run.page.row(ROW, step)
        run.page.status("warning", alerts)
    assert len(clock.stored) <= 1 + len([step for step in range(300) if step % 25 == 5])
    clock.stored.clear()
    run.page.status("finished", alerts)
    run.page.refresh()
    assert len(clock.stored) == 1


def test_without_matplotlib_the_page_goes_without_pictures(
    run: Run, make_alert: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("figures", "pictures"):
        monkeypatch.delitem(sys.modules, f"rldk_tracking.charts.{name}", raising=False)
    with caplog.at_level(logging.INFO, "rldk_tracking"):
        run.page.row(ROW, 1)
        run.page.alert([make_alert(step=1, first_step=1)])
        run.page.status("finished", [make_alert(step=1, first_step=1)])
    assert run.tags[NOTE].startswith("**Finished, step 1. Warning")
    said = [record.getMessage() for record in caplog.records if install_line("report") in record.getMessage()]
    assert [line.split(".")[0] for line in said] == [
        f"A run's page goes without {what}" for what in ("the pictures", "the report")
    ]


def test_a_picture_that_the_server_cannot_read_is_not_in_the_note(client: Any, old_server: str) -> None:
    # The artifacts of this store lie on the disk of the training's machine.
    run = Run(client, place=old_server)
    run.page.row(ROW, 1)
    assert "get-artifact" not in run.tags[NOTE]


def test_checkpoints_are_linked_where_there_are_any(run: Run) -> None:
    run.page.row(ROW, 1)
    assert "Checkpoints" not in run.page.links()
    run.page.checkpoint()
    assert run.page.links()["Checkpoints"] == f"#/experiments/{run.experiment}/models?workflowType=machine_learning"


def test_a_note_of_the_user_stays(run: Run) -> None:
    run.client.set_tag(run.id, NOTE, "My hypothesis: beta is too low.")
    run.client.set_tag(run.id, COLOUR_TAG, "#123456")
    run.page.row(ROW, 1)
    run.page.status("finished", [])
    assert run.tags[NOTE] == "My hypothesis: beta is too low."
    assert run.tags[COLOUR_TAG] == "#123456"


def test_a_note_that_the_user_has_changed_stays(run: Run) -> None:
    run.page.row(ROW, 1)
    run.client.set_tag(run.id, NOTE, run.tags[NOTE] + "\n\nStopped because of the noise.")
    run.page.status("finished", [])
    assert run.tags[NOTE].endswith("Stopped because of the noise.")
    assert run.tags[NOTE].startswith("**Running")


def test_a_resumed_run_goes_on_with_its_note(run: Run) -> None:
    run.page.row(ROW, 1)
    later = run.new_page()
    later.row(ROW, 2)
    assert "step 2." in run.tags[NOTE]


def test_the_link_is_said_at_the_beginning_and_at_the_end(
    run: Run, make_alert: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in range(1, 4):
        run.page.row(ROW, step)
    begin = capsys.readouterr()
    assert begin.out == ""
    assert begin.err.count("rldk: ") == 1
    run.page.status("finished", [make_alert(step=3, first_step=2)])
    end = capsys.readouterr().err
    assert "rldk: the run, with what to try: " in end
    assert f"http://127.0.0.1:5000/#/experiments/{run.experiment}/runs/{run.id}" in end
    for said in (begin.err, end):
        assert "viewStateShareKey=rldk-rl-health" in said
        assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in said


def test_who_wants_no_lines_gets_none(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLDK_SILENT", "1")
    run.page.row(ROW, 1)
    run.page.status("finished", [])
    assert capsys.readouterr().err == ""


def test_a_heat_map_is_linked_and_in_the_report(run: Run) -> None:
    run.page.row(ROW, 1)
    run.page.heatmap("rldk/charts/reward_distribution", Heatmap("Rewards", ("0 to 1",), (1,), ((1.0,),)))
    run.page.status("finished", [])
    assert "artifacts/rldk/charts/reward_distribution.svg" in run.tags[NOTE]
    picture = str(run.mlflow.artifacts.load_text(f"runs:/{run.id}/rldk/charts/reward_distribution.svg"))
    assert "0 to 1" in texts(picture)
    assert picture in run.report()


def log(run: Run, step: int, reward: float) -> None:
    """Store a row, as the tracker does before the page hears of it."""
    values = {"rldk/alerts/firing": 0.0, "rldk/reward/mean": reward}
    metrics = [run.mlflow.entities.Metric(key, value, step, step) for key, value in values.items()]
    run.client.log_batch(run.id, metrics=metrics)


def test_the_report_of_a_resumed_run_has_the_steps_before(run: Run) -> None:
    for step in range(1, 4):
        log(run, step, 0.1 * step)
        run.page.row(ROW | {"rldk/reward/mean": 0.1 * step}, step)
    later = run.new_page()
    for step in range(4, 6):
        log(run, step, 0.1 * step)
        later.row(ROW | {"rldk/reward/mean": 0.1 * step}, step)
    later.status("finished", [])
    page = run.report()
    assert "This page covers steps 1 to 5." in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    (curve,) = {len(line) for picture in pictures for line in points(picture, "rldk/reward/mean")}
    assert curve == 5


def test_the_report_says_where_it_begins_when_there_are_too_many_steps_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rldk_tracking.charts.series.MOST_STEPS", 2)
    for step in range(1, 4):
        log(run, step, 0.5)
    later = run.new_page()
    later.row(ROW, 4)
    later.status("finished", [])
    assert "covers steps 4 to 4. The run went on from a checkpoint: steps up to 3 are in its series" in run.report()


def test_what_the_store_does_not_take_is_said_once_and_hurts_nothing(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise run.mlflow.exceptions.MlflowException("no edit rights")

    run.client.set_experiment_tag = refuse
    run.client.log_batch = refuse
    with caplog.at_level(logging.INFO, "rldk_tracking"):
        for number in range(5):
            run.page.row(ROW | {f"rldk/reward/function/f{number}/mean": 1.0}, number)
            run.page.refresh()
    said = [record.getMessage() for record in caplog.records if "does not take" in record.getMessage()]
    assert VIEW_TAG not in run.client.get_experiment(run.experiment).tags
    assert "Charts of all runs" not in run.page.links()
    assert [line.split(" (")[0] for line in said] == [
        f"MLflow does not take {what}" for what in ("the view", "the kind of experiment", "the note")
    ]


def test_an_old_server_gets_no_view_and_one_line(
    client: Any, old_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(client, place=old_server)
    run.page.row(ROW, 1)
    run.page.row(ROW, 2)
    said = capsys.readouterr().err
    assert VIEW_TAG not in client.get_experiment(run.experiment).tags
    assert said.count("rldk: MLflow 3.8.1 shows no saved views (3.15 does); the run's own page groups the charts.") == 1
    assert f"charts of this run in MLflow: {old_server}/#/experiments/{run.experiment}/runs/{run.id}" in said
    assert "Charts of this run" in run.tags[NOTE]


def test_healthy_runs_differ_in_shade() -> None:
    shades = {run_colour(None, f"run-{number}") for number in range(40)}
    assert shades == set(RUN_COLOURS[None])
    assert run_colour("critical", "a") == run_colour("critical", "a")
    assert not set(RUN_COLOURS["warning"]) & set(RUN_COLOURS["critical"])


def test_the_experiment_is_one_of_trainings_from_the_first_row_on(run: Run) -> None:
    assert KIND_TAG not in run.client.get_experiment(run.experiment).tags
    run.page.row(ROW, 1)
    assert run.client.get_experiment(run.experiment).tags[KIND_TAG] == "custom_model_development"
