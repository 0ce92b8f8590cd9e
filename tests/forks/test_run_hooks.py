"""The page of the stacks shows what the result files say, and each run brought series and one alert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from tests.forks.run_hooks import PAGE, RESULTS, Hooked, channel, page, results, table


def test_the_page_is_made_from_the_result_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run: python tests/forks/run_hooks.py"


@pytest.mark.parametrize("name", ["accelerate", "axolotl", "swift", "verl"])
def test_each_stack_was_run(name: str) -> None:
    found = [Hooked(**one) for one in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))]
    assert found
    for one in found:
        assert one in results()
        assert one.exit_code == 0
        assert min(one.series.values()) > 20
        assert one.alerts.count("rldk critical: nan.reward") == 1


def test_table() -> None:
    one = Hooked("verl 0.9.1", "PPO", "python x.py", 0, {"MLflow": 49, "file": 50}, ["a", "b"], "2026-11-28")
    head, line, row = table([one]).splitlines()
    assert row == "| verl 0.9.1 | PPO | `python x.py` | 0 | MLflow 49, file 50 | a, b | 2026-11-28 |"
    assert head.count("|") == line.count("|") == row.count("|")


def test_the_channel_takes_messages(tmp_path: Path) -> None:
    with channel() as (address, titles):
        message = {"blocks": [{"text": {"text": "rldk critical: nan.reward"}}]}
        assert requests.post(address, json=message, timeout=5).text == "ok"
    assert titles == ["rldk critical: nan.reward"]
