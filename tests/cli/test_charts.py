"""`charts wandb` from the command line, against a W&B server on loopback."""

from __future__ import annotations

import argparse

import pytest

from rldk_tracking.cli.charts import place
from rldk_tracking.cli.main import main
from tests.charts.wandb_backend import WandbBackend

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")


def test_it_says_what_it_did_and_where(wandb_backend: WandbBackend, capsys: pytest.CaptureFixture[str]) -> None:
    wandb_backend.runs = [{"rldk/reward/mean": 0.4}]
    for words in ("is saved", "is there already"):
        assert main(["charts", "wandb", "tester/project"]) == 0
        said = capsys.readouterr().out
        assert said == f"The view with 1 charts {words}: {wandb_backend.url}/tester/project/workspace?nw=rldkhealth1\n"
    with pytest.raises(SystemExit, match="no project tester/other"):
        main(["charts", "wandb", "tester/other"])


@pytest.mark.parametrize("text", ["", "project", "/project", "entity/", "a/b/c"])
def test_a_place_has_two_parts(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="ENTITY/PROJECT"):
        place(text)
    assert place("a/b") == ("a", "b")
