"""`alerts wandb` from the command line, against a W&B server on loopback."""

from __future__ import annotations

import pytest

from rldk_tracking.cli.main import main
from tests.charts.wandb_backend import WandbBackend

pytest.importorskip("wandb.automations", reason="this wandb has no automations")


def test_it_says_which_it_made(wandb_backend: WandbBackend, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("made", "there already"):
        assert main(["alerts", "wandb", "tester/project"]) == 0
        said = capsys.readouterr().out
        assert said == f"rldk-health-score-project: {word}\nrldk-alerts-firing-project: {word}\n"
    wandb_backend.channels = []
    with pytest.raises(SystemExit, match="no Slack integration"):
        main(["alerts", "wandb", "tester/project"])
