"""Which trackers a trainer's run has: those that its `report_to` named; and trackers by name, for a later process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.reporter import ReporterTracker
from rldk_tracking.trackers.slack import ENVIRONMENT, SlackNotifier
from rldk_tracking.trackers.tensorboard import TensorBoardTracker
from rldk_tracking.trackers.trackio import TrackioTracker
from rldk_tracking.trackers.wandb import WandbTracker
from rldk_tracking.trackers.webhook import WebhookNotifier

RESUMABLE: dict[str, type[Tracker]] = {
    kind.name: kind for kind in (MLflowTracker, WandbTracker, SlackNotifier, WebhookNotifier)
}
"""Name to the tracker that another process can go on with."""


def trackers_for(
    callbacks: Iterable[Any],
    slack: SlackNotifier | str | bool | None = None,
) -> list[Tracker]:
    """A tracker for each backend among a trainer's callbacks, in their order.

    Args:
        callbacks: `trainer.callback_handler.callbacks`.
        slack: a notifier, a webhook's address, None for the one in `RLDK_SLACK_WEBHOOK_URL` if set, False for none.

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
    notifier = _notifier(slack)
    if notifier is not None:
        notifier.link_to(trackers)
        trackers.append(notifier)
    return trackers


def resumed(name: str, to: Mapping[str, str], secrets: Mapping[str, str]) -> Tracker:
    """The tracker of another process's run, see `Tracker.resume`.

    Raises:
        ValueError: there is no such tracker, or no run is named.
        ImportError: a backend's package is missing.
        OSError: the backend cannot be reached.
    """
    if name not in RESUMABLE:
        raise ValueError(f"there is nothing to send to a tracker named {name[:40]!r}")
    return RESUMABLE[name].resume(to, secrets)


def _tracker_of(callback: Any) -> Tracker | None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    if isinstance(callback, integration_utils.WandbCallback):
        return WandbTracker()
    if isinstance(callback, integration_utils.MLflowCallback):
        return MLflowTracker()
    if isinstance(callback, integration_utils.TensorBoardCallback):
        return TensorBoardTracker(callback)
    if isinstance(callback, integration_utils.TrackioCallback):
        return TrackioTracker()
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
