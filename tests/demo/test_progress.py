"""The bar and the alerts above it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.callback import RLDKMetrics
from rldk_tracking.demo.progress import Progress
from rldk_tracking.health.alert import Alert


def alert(**changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "rule": "kl.high",
        "severity": "warning",
        "state": "firing",
        "step": 12,
        "first_step": 10,
        "value": 2.0,
        "threshold": 1.0,
        "message": "Drift is 2 nats per token.",
        "advice": "Lower the learning rate.",
    }
    return Alert(**{**fields, **changes})


def test_each_alert_is_shown_once_and_the_bar_moves(capsys: pytest.CaptureFixture[str]) -> None:
    diagnostics: Any = SimpleNamespace(alerts=[], metrics=RLDKMetrics(step=1, reward_mean=0.25))
    progress = Progress("a-run", diagnostics)
    state = SimpleNamespace(max_steps=3, global_step=0)
    progress.on_train_begin(None, state, None)
    for step in (1, 2, 3):
        state.global_step = step
        if step == 2:
            diagnostics.alerts.append(alert(step=2))
        progress.on_log(None, state, None)
    progress.on_train_end(None, state, None)
    shown = capsys.readouterr()
    assert shown.out.count("kl.high") == 1
    assert "a-run" in shown.err
    assert "3/3" in shown.err
    assert "reward=0.25" in shown.err
    assert "kl=" not in shown.err, "what was not measured is not shown"


def test_closing_twice_is_no_error() -> None:
    progress = Progress("a-run", SimpleNamespace(alerts=[], metrics=RLDKMetrics()))  # type: ignore[arg-type]
    progress.on_log(None, SimpleNamespace(global_step=1), None)
    progress.close()
    progress.close()
