"""The view that a project's first run saves, against a server on loopback, in real online runs."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from rldk_tracking.charts import first_view
from rldk_tracking.charts.first_view import ROWS, FirstView, saved
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Row
from tests.charts.wandb_backend import WandbBackend

wandb = pytest.importorskip("wandb", reason="needs wandb")
pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")


def ran(saves_view: bool = True, rows: int = ROWS) -> None:
    """An online run of the project."""
    from rldk_tracking.trackers.wandb import WandbTracker

    run = wandb.init(project="project", settings=wandb.Settings(x_file_stream_transmit_interval=1))
    tracker = WandbTracker()
    tracker.open(RunInfo(saves_view=saves_view))
    tracker.status("running", {}, 0)
    for step in range(1, rows + 1):
        tracker.log_rows([Row({"rldk/kl/ref_k3": 0.1, "rldk/length/mean": 5.0}, step, 0.0)])
    tracker.status("finished", {}, rows)
    tracker.close()
    run.finish()


@pytest.mark.slow
def test_of_two_runs_of_a_project_the_first_saves_the_view(
    wandb_backend: WandbBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"all runs side by side, in W&B: {wandb_backend.url}/tester/project/workspace?nw=rldkhealth1"
    ran()
    assert f"{address} (saved now" in capsys.readouterr().err
    (view,) = wandb_backend.views.values()
    assert "rldk/length/mean" in view["spec"]
    ran(rows=3)
    shown = capsys.readouterr().err
    assert f"{address} (a saved view)" in shown
    assert "charts wandb" not in shown, "there is nothing to do by hand"
    assert wandb_backend.count("UpsertView2") == 1


def test_switched_off(wandb_backend: WandbBackend, capsys: pytest.CaptureFixture[str]) -> None:
    ran(saves_view=False, rows=1)
    assert "`rldk-tracking charts wandb tester/project` makes one view" in capsys.readouterr().err
    assert wandb_backend.count("View") == wandb_backend.count("UpsertView2") == 0


def test_what_is_refused_is_said(wandb_backend: WandbBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    wandb_backend.refuses.add("UpsertView2")
    text = saved(wandb_backend.url, "tester", "project", ["rldk/kl/ref_k3"])
    assert "permission denied" in text
    assert "RLDK_VIEW=0 is for none" in text


class Asked:
    """Stands for the process."""

    requests: ClassVar[list[Any]] = []
    is_done = False

    def __init__(self, module: str, request: Any) -> None:
        self.requests.append(json.loads(json.dumps(request)))

    def answer(self, timeout_s: float) -> str:
        return "an address"


def test_the_process_is_started_once_and_its_answer_comes_with_a_later_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(Asked, "requests", asked)
    monkeypatch.setattr(first_view, "Task", Asked)
    view = FirstView("http://127.0.0.1:9", "team", "p")
    for step in range(ROWS + 5):
        view.row([f"rldk/{step}"])
        assert len(asked) == (step >= ROWS - 1)
    assert not capsys.readouterr().err
    monkeypatch.setattr(Asked, "is_done", True)
    view.row([])
    view.row([])
    view.at_end()
    assert capsys.readouterr().err == "rldk: an address\n"
    ((server, entity, project, series),) = asked
    assert (server, entity, project) == ("http://127.0.0.1:9", "team", "p")
    assert {f"rldk/{step}" for step in range(ROWS)} < set(series)


def test_a_run_without_a_row_has_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_view, "Task", None)
    FirstView("http://127.0.0.1:9", "team", "p").at_end()


def test_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(first_view, "Task", refuse)
    view = FirstView("http://127.0.0.1:9", "team", "p")
    with caplog.at_level("INFO", "rldk_tracking"):
        for _ in range(ROWS + 5):
            view.row([])
        view.at_end()
    assert caplog.text.count("no more processes") == 1
