"""Reports on runs that are over: watched ones as they were told, others as the rules see them now."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.history.past import MOST, load, series_of, write_csv, write_parquet
from rldk_tracking.history.replay import replay
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.trackers.jsonl import JsonlTracker

Make = Callable[..., Alert]


def journal(path: Path, *alerts: Alert, rows: int = 5) -> Path:
    tracker = JsonlTracker(path)
    tracker.status("running", {}, 0)
    for step in range(1, rows + 1):
        tracker.log({"rldk/health/score": 1.0, "rldk/kl/ref_k3": 0.1 * step}, step)
    for alert in alerts:
        tracker.alert(alert)
    tracker.status("stopped", {}, rows)
    tracker.close()
    return path


def test_a_watched_run_is_taken_as_it_was_told(tmp_path: Path, make_alert: Make) -> None:
    alert = make_alert("users.own", step=3, first_step=2)
    past = load(journal(tmp_path / "run.jsonl", alert))
    assert past.alerts == [alert]
    assert past.status == "stopped"
    assert past.rows[4] == (5, {"rldk/health/score": 1.0, "rldk/kl/ref_k3": pytest.approx(0.5)})
    assert past.report().verdict == "Stopped, step 5. Warning: users.own since step 2."


@pytest.mark.parametrize("place", ["run.jsonl", "rldk/run.jsonl"])
def test_a_folder_is_searched_for_its_journal(tmp_path: Path, place: str) -> None:
    journal(tmp_path / place)
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [{"step": 1, "loss": 1.0}]}))
    past = load(tmp_path)
    assert len(past.rows) == 5
    assert past.report().title == tmp_path.name


def test_the_journal_of_a_training(tmp_path: Path, make_alert: Make) -> None:
    from tests.journal.conftest import row, started

    for number in (1, 2):
        written = started(tmp_path / "_rldk")
        for step in range(1, 4 + number):
            written.row(step, row(step), [make_alert("users.own", step=3)] if step == 3 else [])
        written.end("stopped" if number == 1 else "finished", 3 + number)
        written.close()
    past = load(tmp_path)
    assert [step for step, _ in past.rows] == [1, 2, 3, 4, 5], "the last training's"
    assert past.alerts == [make_alert("users.own", step=3)]
    assert (past.status, past.settings, past.trainer) == ("finished", {"beta": 0.02}, "GRPOTrainer")
    older = load(tmp_path / "_rldk" / "run.jsonl")
    assert (older.status, len(older.rows)) == ("stopped", 4)


def test_a_training_that_was_killed_and_one_that_goes_on(tmp_path: Path, make_alert: Make) -> None:
    from tests.journal.conftest import row, started

    written = started(tmp_path)
    written.row(1, row(1))
    written.call("alert", make_alert("run.crashed", severity="critical", step=1))
    written.close()
    assert load(tmp_path).status == "crashed"
    again = started(tmp_path, resumed_at=0)
    again.call("alert", make_alert("run.crashed", severity="critical", step=1, state="resolved"))
    again.row(2, row(2))
    again.close()
    past = load(tmp_path)
    assert (past.status, [step for step, _ in past.rows]) == ("", [1, 2])


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    path = journal(tmp_path / "run.jsonl")
    with path.open("a") as file:
        file.write('{"type": "metrics", "step": 6}\n{"type": "dance"}\n{"type": "alert"}\n{"type": "metr')
    assert len(load(path).rows) == 5


def test_an_unwatched_run_is_judged_as_replay_judges_it(tmp_path: Path) -> None:
    entries = [{"step": n, "loss": 0.1, "kl": 0.01 * n, "grad_norm": float("nan") if n > 7 else 1.0} for n in range(20)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries))
    past = load(path)
    judged = replay(path)
    assert past.alerts == [alert for _, alert in judged.alerts]
    assert [alert.rule for alert in past.alerts] == ["nan.gradients"]
    assert past.unknown == tuple(judged.unknown)
    assert {key: past.rows[-1][1][key] for key in judged.scores} == judged.scores
    assert "Critical: nan.gradients since step 8" in past.report().verdict
    assert "Not judged" in past.report().html()


def test_unknown_rules_and_sources_are_said(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError):
        load(tmp_path / "nothing.jsonl")
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}')
    with pytest.raises(ValueError, match="unknown preset"):
        load(path, rules="lenient")


def test_a_long_run_is_drawn_thinner_and_kept_whole(tmp_path: Path) -> None:
    past = load(journal(tmp_path / "run.jsonl", rows=4 * MOST + 1))
    points = past.report().series["rldk/kl/ref_k3"]
    assert len(points) <= MOST + 1
    assert points[-1] == (4 * MOST + 1, past.rows[-1][1]["rldk/kl/ref_k3"])
    assert len(series_of(past.rows)["rldk/kl/ref_k3"]) == 4 * MOST + 1


def test_the_latest_heat_map_of_a_journal_is_on_the_page(tmp_path: Path) -> None:
    path = journal(tmp_path / "run.jsonl")
    tracker = JsonlTracker(path)
    tracker.log({"rldk/reward/mean": 0.5}, 6)
    for version in ("early", "late"):
        tracker.log_heatmap("rldk/charts/reward_distribution", Heatmap(version, ("0 to 1",), (1,), ((1.0,),)), 6)
    tracker.close()
    page = load(path).report().html()
    assert ">late</text>" in page
    assert ">early (" not in page


def test_a_run_in_two_parts_is_one_report(tmp_path: Path, make_alert: Make) -> None:
    path = journal(tmp_path / "run.jsonl", make_alert("kl.high", step=3, first_step=2))
    resumed = JsonlTracker(path)
    for step in range(6, 9):
        resumed.log({"rldk/health/score": 0.5, "rldk/kl/ref_k3": 0.1 * step}, step)
    resumed.status("finished", {}, 8)
    resumed.close()
    report = load(path).report()
    assert [step for step, _ in report.series["rldk/kl/ref_k3"]] == list(range(1, 9))
    assert report.verdict == "Finished, step 8. Warning: kl.high since step 2."


ROWS = [
    (1, {"rldk/a": 0.1 + 0.2, "rldk/b": 1e-300}),
    (2, {"rldk/a": -1.5}),
    (2, {"rldk/b": 3.0, 'rldk/reward/function/x,"y"/mean': 2.0}),
]


def test_csv_holds_every_row_and_number(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ROWS)
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    back = [
        (int(line.pop("step")), {key: float(value) for key, value in line.items() if value != ""}) for line in lines
    ]
    assert back == ROWS


def test_parquet_holds_every_row_and_number(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_parquet(tmp_path / "t.parquet", ROWS)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert str(table.schema.field("step").type) == "int64"
    back = [
        (line.pop("step"), {key: value for key, value in line.items() if value is not None})
        for line in table.to_pylist()
    ]
    assert back == ROWS


def test_a_run_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [])
    assert (tmp_path / "t.csv").read_text().strip() == "step"
