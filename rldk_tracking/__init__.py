"""Diagnostics for reinforcement learning with TRL and transformers, in the run that `report_to` opened.

    from rldk_tracking import RLDKCallback
    trainer = GRPOTrainer(..., args=GRPOConfig(report_to=["mlflow"]), callbacks=[RLDKCallback()])

The public names are imported when they are first used, so that this import costs next to nothing: torch, transformers,
wandb and mlflow are loaded by whoever needs them. After it, `report_to=["mlflow", "rldk"]` works as well.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rldk_tracking import report_to
from rldk_tracking.messages.packages import advice

if TYPE_CHECKING:
    from rldk_tracking.callback import CustomRLDKCallback, RLDKCallback, RLDKMetrics, RLDKMonitor, attach
    from rldk_tracking.health.alert import Alert
    from rldk_tracking.health.rule import Rule
    from rldk_tracking.history.dashboard import RLDKDashboard
    from rldk_tracking.history.replay import replay
    from rldk_tracking.isolation import TrainingStopped
    from rldk_tracking.monitors.checkpoint import CheckpointMetrics, CheckpointMonitor
    from rldk_tracking.monitors.group import GroupMonitor
    from rldk_tracking.monitors.ppo import AdvancedPPOMonitor, PPOMetrics, PPOMonitor
    from rldk_tracking.rollout import PolicyUpdate, Rollout
    from rldk_tracking.trackers.jsonl import JsonlTracker
    from rldk_tracking.trackers.memory import InMemoryTracker
    from rldk_tracking.trackers.mlflow import MLflowTracker
    from rldk_tracking.trackers.slack import SlackNotifier
    from rldk_tracking.trackers.wandb import WandbTracker

__version__ = "0.1.0"

_HOME = {
    "AdvancedPPOMonitor": "monitors.ppo",
    "Alert": "health.alert",
    "CheckpointMetrics": "monitors.checkpoint",
    "CheckpointMonitor": "monitors.checkpoint",
    "CustomRLDKCallback": "callback",
    "GroupMonitor": "monitors.group",
    "InMemoryTracker": "trackers.memory",
    "JsonlTracker": "trackers.jsonl",
    "MLflowTracker": "trackers.mlflow",
    "PPOMetrics": "monitors.ppo",
    "PPOMonitor": "monitors.ppo",
    "PolicyUpdate": "rollout",
    "RLDKCallback": "callback",
    "RLDKDashboard": "history.dashboard",
    "RLDKMetrics": "callback",
    "RLDKMonitor": "callback",
    "Rollout": "rollout",
    "Rule": "health.rule",
    "SlackNotifier": "trackers.slack",
    "TrainingStopped": "isolation",
    "WandbTracker": "trackers.wandb",
    "attach": "callback",
    "replay": "history.replay",
}
"""Public name to the module that defines it."""

__all__ = [
    "AdvancedPPOMonitor",
    "Alert",
    "CheckpointMetrics",
    "CheckpointMonitor",
    "CustomRLDKCallback",
    "GroupMonitor",
    "InMemoryTracker",
    "JsonlTracker",
    "MLflowTracker",
    "PPOMetrics",
    "PPOMonitor",
    "PolicyUpdate",
    "RLDKCallback",
    "RLDKDashboard",
    "RLDKMetrics",
    "RLDKMonitor",
    "Rollout",
    "Rule",
    "SlackNotifier",
    "TrainingStopped",
    "WandbTracker",
    "__version__",
    "attach",
    "replay",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ImportError as error:
        sentence = advice(f"{__name__}.{name}", error)
        if sentence is None:
            raise
        raise ImportError(sentence) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


report_to.install()
