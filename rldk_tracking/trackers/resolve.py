"""Which trackers a trainer's run has: those that its `report_to` named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.reporter import ReporterTracker
from rldk_tracking.trackers.slack import ENVIRONMENT, SlackNotifier
from rldk_tracking.trackers.wandb import WandbTracker


def trackers_for(
    callbacks: Iterable[Any],
    slack: SlackNotifier | str | bool | None = None,
    output_dir: str | os.PathLike[str] | None = None,
) -> list[Tracker]:
    """A tracker for each backend among a trainer's callbacks, in their order.

    Args:
        callbacks: `trainer.callback_handler.callbacks`.
        slack: a notifier, a webhook's address, None for the one in `RLDK_SLACK_WEBHOOK_URL` if set, False for none.
        output_dir: also write JSON lines into this folder. Where `report_to` names no backend, JSON lines are written
            in any case, to `rldk` in the trainer's output folder.

    Raises:
        ImportError: a backend's package is missing; the message names the extra to install.
        ValueError: the webhook's address is not usable.
    """
    trackers: list[Tracker] = []
    for callback in callbacks:
        tracker = _tracker_of(callback)
        # DagsHub's callback is an MLflow callback: both write to the one MLflow run.
        if tracker is not None and not (tracker.name != "reporter" and tracker.name in {t.name for t in trackers}):
            trackers.append(tracker)
    if output_dir is not None:
        trackers.append(JsonlTracker(output_dir))
    elif not trackers:
        trackers.append(JsonlTracker())
    notifier = _notifier(slack)
    if notifier is not None:
        notifier.link_to(trackers)
        trackers.append(notifier)
    return trackers


def _tracker_of(callback: Any) -> Tracker | None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    if isinstance(callback, integration_utils.WandbCallback):
        return WandbTracker()
    if isinstance(callback, integration_utils.MLflowCallback):
        return MLflowTracker()
    # "rldk" is our own entry in the same table.
    backends = tuple(kind for name, kind in integration_utils.INTEGRATION_TO_CALLBACK.items() if name != "rldk")
    # Some integrations (CodeCarbon, Flyte) take no series.
    if isinstance(callback, backends) and type(callback).on_log is not TrainerCallback.on_log:
        return ReporterTracker(callback)
    return None


def _notifier(slack: SlackNotifier | str | bool | None) -> SlackNotifier | None:
    if isinstance(slack, SlackNotifier):
        return slack
    if isinstance(slack, str):
        return SlackNotifier(slack)
    if slack is False or not os.environ.get(ENVIRONMENT):
        return None
    return SlackNotifier()
