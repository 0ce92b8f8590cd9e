from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.messages.packages import install_line


def log(path: Path, rewards: list[float], **extra: float) -> Path:
    rows = [
        {"step": step, "loss": 0.1, "grad_norm": 1.0, "learning_rate": 1e-5, "reward": reward, **extra}
        for step, reward in enumerate(rewards, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return log(tmp_path / "healthy.jsonl", [0.2 + 0.005 * step for step in range(60)])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = log(tmp_path / "broken.jsonl", [0.2 + 0.005 * step for step in range(20)])
    with path.open("a") as file:
        file.write(json.dumps({"step": 21, "loss": 0.1, "grad_norm": float("nan"), "reward": 0.3}) + "\n")
    return path


def test_a_healthy_run_is_zero(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(healthy)]) == 0
    assert capsys.readouterr().out.startswith("healthy: ")


def test_a_nan_is_two_and_json_says_where(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(broken), "--format", "json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "critical"
    assert found["rows"] == 21
    (alert,) = [alert for alert in found["alerts"] if alert["rule"].startswith("nan.")]
    assert (alert["rule"], alert["severity"], alert["state"]) == ("nan.gradients", "critical", "firing")
    assert (alert["step"], alert["row"]) == (21, 20)
    assert {"value", "threshold", "message", "advice"} <= set(alert)
    assert "value.explained_variance" in found["unknown"]


STEADY = {"reward_std": 0.3, "frac_reward_zero_std": 0.1, "completions/clipped_ratio": 0.02, "entropy": 1.2}


@pytest.mark.parametrize(
    ("rows", "dead_from", "code", "first_line"),
    [
        (0, None, 3, "run.jsonl: 0 entries, and no name in them that stands for a known key (nothing)."),
        (4, None, 4, "unknown: run.jsonl (4 rows)"),
        (20, None, 0, "healthy: run.jsonl (20 rows)"),
        (100, None, 0, "healthy: run.jsonl (100 rows)"),
        (100, 41, 2, "critical: run.jsonl (100 rows)"),
        (None, None, 3, "run.jsonl:1: not JSON (Expecting property name enclosed in double quotes)."),
    ],
    ids=["empty", "4 rows", "20 rows", "healthy", "dead", "unreadable"],
)
def test_the_verdicts(
    rows: int | None,
    dead_from: int | None,
    code: int,
    first_line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = log(Path("run.jsonl"), [0.2 + 0.005 * step for step in range(rows or 0)], kl=0.01, **STEADY)
    if rows is None:
        path.write_text("{not json\n")
    if dead_from is not None:
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        dead = {"reward": 0.0, "reward_std": 0.0, "frac_reward_zero_std": 1.0, "kl": 12.0, "entropy": 0.0}
        path.write_text(
            "".join(json.dumps(entry | (dead if entry["step"] >= dead_from else {})) + "\n" for entry in entries)
        )
    assert main(["replay", "run.jsonl"]) == code
    said = capsys.readouterr()
    assert (said.out + said.err).splitlines()[0] == first_line
    assert bool(said.out) == (code != 3)
    if code == 3:
        with pytest.raises(SystemExit) as stopped:
            main(["report", "run.jsonl"])
        assert stopped.value.code == 3
        return
    assert main(["report", "run.jsonl"]) == 0
    sentence = capsys.readouterr().out.splitlines()[0]
    assert sentence.startswith(f"As recorded, step {rows}. ")
    assert {0: "No alert so far.", 2: "Critical: ", 4: "Unknown: too little was judged"}[code] in sentence


def test_how_much_was_judged_is_a_line_and_the_rules_come_on_request(
    healthy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(healthy)]) == 0
    said = capsys.readouterr().out.splitlines()
    judged, warming_up, no_data, never = map(
        int,
        re.fullmatch(
            r"judged (\d+), warming up (\d+), no data (\d+) \(of which (\d+) cannot come from a log\)", said[1]
        ).groups(),
    )
    assert not any("value.explained_variance" in line for line in said)
    assert main(["replay", str(healthy), "--rules-without-data"]) == 0
    named = capsys.readouterr().out
    assert "no data for: " in named and "value.explained_variance" in named
    assert main(["replay", str(healthy), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(found[name]) for name in ("judged", "warming_up", "unknown", "never_in_logs")] == [
        judged, warming_up, no_data, never,
    ]  # fmt: skip
    assert set(found["never_in_logs"]) < set(found["unknown"])


def test_a_word_in_a_cell_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("step,reward\n1,0.5\n2,abc\n")
    assert main(["replay", str(path)]) == 4
    assert "1 value is no number; the first is reward in row 2: 'abc'" in capsys.readouterr().out


def test_replay_and_report_read_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "_rldk" / "run.jsonl"
    journal.parent.mkdir()
    rows = [{"rldk/length/truncated_fraction": 0.9, "rldk/health/score": 0.5, "rldk/reward/mean": 0.1}] * 40
    lines = [{"type": "metrics", "time": 1.0, "step": step, "metrics": row} for step, row in enumerate(rows, 1)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = tmp_path / "checkpoint-40" / "trainer_state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"log_history": [{"step": 10 * n, "reward": 0.1} for n in range(4)]}))
    choice = "reading _rldk/run.jsonl; also found checkpoint-40/trainer_state.json"
    assert main(["replay", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"warning: {journal} (40 rows)" and choice in said
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r.html")]) == 0
    assert choice in capsys.readouterr().out.splitlines()
    assert main(["replay", str(state)]) == 4


def test_one_bad_source_leaves_the_others_their_verdict(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "deep.json"
    bad.write_text("[" * 100_000)
    assert main(["replay", str(healthy), str(bad), str(tmp_path / "none")]) == 3
    said = capsys.readouterr()
    assert said.out.startswith(f"healthy: {healthy}") and re.search(rf"^unreadable .* {bad}$", said.out, re.MULTILINE)
    assert said.err.splitlines() == [f"{bad}: nested too deeply.", f"{tmp_path / 'none'}: no such file or folder."]
    assert main(["replay", str(healthy), str(bad), "--format", "json"]) == 3
    good, unreadable = json.loads(capsys.readouterr().out)
    assert good["verdict"] == "healthy"
    assert unreadable == {"verdict": "unreadable", "source": str(bad), "error": f"{bad}: nested too deeply."}


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_names_from_a_file_do_not_command_the_terminal(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2K\rverdict: healthy\nhealthy: \u202e"
    path = tmp_path / "run\x1b[2K\nhealthy.jsonl"
    log(path, [0.5] * 30)
    with path.open("a") as file:
        file.write(json.dumps({"step": 31, "reward": evil, "grad_norm": float("nan")}) + "\n")
    main(["replay", str(path), str(tmp_path), str(tmp_path / evil), "--format", form])
    said = capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / evil)])
    for source in (path, tmp_path):  # a folder's report says which file it chose
        assert main(["report", str(source), "-o", str(tmp_path / "r.md")]) == 0
    said_too = capsys.readouterr()
    for text in (said.out, said.err, said_too.out, said_too.err):
        assert all(sign.isprintable() or sign == "\n" for sign in text)
        assert not any(line.startswith(("verdict:", "healthy: ")) for line in text.splitlines())


def test_one_that_flaps_is_printed_once_with_its_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = [1.0 if step % 20 < 10 else 0.0 for step in range(100)]
    rows = [{"step": step, "reward": 0.2, "completions/clipped_ratio": value} for step, value in enumerate(cut, 1)]
    path = tmp_path / "flapping.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["replay", str(path)])
    said = [line for line in capsys.readouterr().out.splitlines() if "length.truncated" in line and "step" in line]
    (line,) = said
    assert re.match(r"step \d+ \(row \d+\) warning length.truncated \d+ times, first step \d+, last step \d+", line)


def test_what_a_source_was_read_as_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "export.of.a.panel"
    path.write_text("Step,a - reward,b - reward\n1,0.5,0.5\n2,,0.25\n")
    assert main(["replay", str(path)]) == 4
    said = capsys.readouterr().out.splitlines()
    assert "read as W&B's panel export" in said
    assert f"reading run b of 2 in the file; also found a; '{path}#a' reads another" in said
    assert main(["replay", f"{path}#a", "--format", "json"]) == 4
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["rows"], report["source"]) == ("W&B's panel export", 1, f"{path}#a")


def test_what_cannot_be_read_is_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "nothing.jsonl")]) == 3
    assert "nothing.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("deep.jsonl", "[" * 100_000, 3, "deep.jsonl: nested too deeply"),
        ("deep.json", '{"log_history": ' + "[" * 100_000, 3, "deep.json: nested too deeply"),
        ("long.csv", f"step,reward,text\n1,0.5,{'x' * 200_000}\n", 4, "unknown: long.csv (1 rows)"),
        ("pipe.jsonl", None, 3, "pipe.jsonl: not a regular file"),
    ],
)
def test_no_file_ends_in_a_traceback(
    name: str, content: str | None, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(name) if content is None else Path(name).write_text(content)
    assert main(["replay", name]) == code
    captured = capsys.readouterr()
    assert (captured.out + captured.err).startswith(said)


def test_without_mlflow_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["replay", "mlflow:0123"]) == 3
    assert install_line("mlflow") in capsys.readouterr().err


def test_many_at_once_end_in_a_table(healthy: Path, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(healthy), str(broken)]) == 2
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-3].split() == ["verdict", "reward", "first", "cause", "since", "step", "rows", "run"]
    assert lines[-2].split() == ["critical", "improving", "nan.gradients", "21", "21", str(broken)]
    assert lines[-1].split() == ["healthy", "improving", "-", "-", "60", str(healthy)]


def test_markdown_is_escaped(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(broken), "--format", "markdown"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("## critical: ")
    assert "- step 21 (row 20) critical nan.gradients" in out


def test_a_run_can_be_written_into_mlflow(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    assert main(["replay", str(broken), "--to", "mlflow"]) == 2
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("rldk-replay")
    (run,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "rldk/reward/mean")) == 21
    assert "nan.gradients" in run.data.tags["rldk.alerts.open"]
    assert main(["replay", "mlflow:experiment/rldk-replay"]) == 2
    assert main(["replay", "mlflow:experiment/nobody"]) == 3
    mlflow.set_tracking_uri(before)


def test_names_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"step": step, "cut": 0.9}) + "\n" for step in range(30)))
    assert main(["replay", str(path), "--alias", "cut=rldk/length/truncated_fraction"]) == 1
    assert "length.truncated" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="NAME=KEY"):
        main(["replay", str(path), "--alias", "cut"])


def test_an_alias_for_no_key_is_said_once(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(healthy), "--alias", "foo=rldk/length/mean"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["replay", str(healthy), str(healthy), "--alias", "foo=rldk/lenght/mean"])
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1 and "did you mean rldk/length/mean?" in said.err


@pytest.mark.parametrize(("rules", "why"), [("nosuch", "unknown preset"), ("none.yaml", "no such file")])
def test_rules_that_cannot_be_read_are_said_once(
    rules: str, why: str, healthy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["replay", str(healthy), str(healthy), "--rules", rules])
    said = capsys.readouterr()
    assert stopped.value.code == 3
    assert said.out == "" and said.err.count(why) == 1


def test_a_tracker_that_does_not_take_it_leaves_the_verdict(
    healthy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:1")
    try:
        assert main(["replay", str(healthy), "--to", "mlflow"]) == 3
    finally:
        mlflow.set_tracking_uri(None)
    said = capsys.readouterr()
    assert said.out.startswith(f"healthy: {healthy}")
    (line,) = said.err.splitlines()
    assert line.startswith(f"{healthy}: not written into mlflow: the MLflow server at http://127.0.0.1:1 does not take")


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (["healthy", "unknown"], 4),
        (["unknown", "warning", "healthy"], 1),
        (["unknown", "critical", "warning"], 2),
        (["critical", "unreadable", "unknown"], 3),
    ],
)
def test_the_worst_of_several_runs_counts(kinds: list[str], code: int, tmp_path: Path, healthy: Path) -> None:
    paths = {"healthy": healthy, "unreadable": tmp_path / "none"}
    paths["unknown"] = log(tmp_path / "unknown.jsonl", [0.1, 0.2])
    paths["warning"] = log(tmp_path / "warning.jsonl", [0.1] * 20, **{"completions/clipped_ratio": 0.9})
    paths["critical"] = log(tmp_path / "critical.jsonl", [float("nan")] * 2)
    assert main(["replay", *(str(paths[kind]) for kind in kinds)]) == code
