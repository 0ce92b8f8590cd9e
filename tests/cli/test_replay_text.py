from __future__ import annotations

import json
from pathlib import Path

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.cli.replay_text import _line, plot
from rldk_tracking.health.alert import Alert, AlertState, Severity


@pytest.fixture
def spiked(tmp_path: Path) -> Path:
    """60 good rows, then gradients that are NaN and completions that are all cut off, which is held back as theirs."""
    good = {"loss": 0.1, "grad_norm": 1.0, "reward": 0.3, "completions/clipped_ratio": 0.0}
    bad = good | {"grad_norm": float("nan"), "completions/clipped_ratio": 1.0}
    path = tmp_path / "run.jsonl"
    rows = [{"step": step, **(bad if step > 60 else good)} for step in range(1, 91)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_matters_comes_first(spiked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(spiked)]) == 2
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"critical: {spiked} (90 rows)"
    assert said[1].startswith("step 61 (row 60) critical nan.gradients")
    assert said[2].startswith("    held back as its consequences: ") and "length.truncated" in said[2]
    assert said[3].startswith("    try: ") or said[4].startswith("    try: ")
    assert not any("*" in line for line in said)  # no terminal, no plot


def test_the_first_cause_is_plotted_on_request_and_never_in_json(
    spiked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["replay", str(spiked), "--plot"])
    said = capsys.readouterr().out.splitlines()
    place = said.index("    rldk/nan/gradients, steps 1 to 90")
    assert said[place + 1].split()[0] == "1" and said[place + 8].split()[0] == "0"
    main(["replay", str(spiked), "--plot", "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert found["first_cause"] == "nan.gradients" and "cause_series" not in found


def test_a_plot_shows_the_spike_the_limit_and_the_incident() -> None:
    series = [(step, 10.0 if step == 500 else 1.0) for step in range(1, 1001)]
    alert = Alert("kl.spike", "warning", "firing", 505, 500, 10.0, 4.0, "", "", key="rldk/kl/ref_k1")
    title, *lines = plot(series, alert)
    assert title == "    rldk/kl/ref_k1, steps 1 to 1000"
    values = [line[12:] for line in lines]
    assert lines[0].split()[0] == "10" and lines[-1].split()[0] == "1"
    assert values[0].strip() == "*" and values[0].index("*") == 499 * 64 // 1000
    assert values[-1].count("*") == 63
    assert [line.count("-") > 60 for line in values].count(True) == 1
    assert all(line[values[0].index("*")] == "|" for line in values[1:])
    assert plot(series[:1], alert) == []


def test_what_came_later_is_named_with_its_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl"
    rows = [
        {"step": step, "reward": 0.3, "kl": 0.01 if step < 30 else 3.0, "completions/clipped_ratio": float(step > 60)}
        for step in range(1, 121)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["replay", str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert " kl." in said[1] and said[1].startswith("step 3")
    later = next(line for line in said if line.startswith("    later: "))
    step = next(line for line in said if " length.truncated" in line and line.startswith("step ")).split()[1]
    assert f"length.truncated (step {step})" in later and int(step) > 60


def test_an_alert_that_becomes_critical_has_not_fired_twice() -> None:
    def alert(severity: Severity, state: AlertState, step: int) -> tuple[int, Alert]:
        return step, Alert("kl.high", severity, state, step, step, 3.0, 2.0, "KL is high.", "", key="rldk/kl/ref_k1")

    once = [alert("warning", "firing", 5), alert("critical", "firing", 9), alert("critical", "resolved", 12)]
    assert _line(*once[0], once) == "step 5 (row 5) critical kl.high (over at step 12): KL is high."
    again = [*once, alert("warning", "firing", 30)]
    assert " kl.high 2 times, first step 5, last step 30: " in _line(*again[0], again)
