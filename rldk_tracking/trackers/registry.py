"""The backends that there are: those of this package, and those that other packages bring as entry points.

Nothing else lists backends. Those of this package stand in a table of its own and not among its entry points: they are
there when it runs from its sources, without an installation, and no other installation of it can take them away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

from rldk_tracking.messages.packages import TRACKERS, extensions, leave_out, tried
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.channel import Channel
from rldk_tracking.trackers.jsonl import JsonlBackend
from rldk_tracking.trackers.mlflow_backend import MLflowBackend
from rldk_tracking.trackers.notify import NotifyBackend, channels
from rldk_tracking.trackers.reporter import ReporterBackend
from rldk_tracking.trackers.slack import ENVIRONMENT, SlackBackend, SlackNotifier
from rldk_tracking.trackers.swanlab import SwanLabBackend
from rldk_tracking.trackers.tensorboard import TensorBoardBackend
from rldk_tracking.trackers.trackio import TrackioBackend
from rldk_tracking.trackers.wandb_backend import WandbBackend
from rldk_tracking.trackers.webhook import WebhookBackend

T = TypeVar("T")

BUILT_IN: tuple[Backend, ...] = (
    JsonlBackend(),
    MLflowBackend(),
    WandbBackend(),
    TensorBoardBackend(),
    TrackioBackend(),
    SwanLabBackend(),
    SlackBackend(),
    NotifyBackend(),
    WebhookBackend(),
)
ANY_OTHER = ReporterBackend()
"""For what no other backend joins."""


def backends() -> dict[str, Backend]:
    """Name to backend; of two that could serve the same, the first does."""
    return ask(lambda backend: backend)


def tracker_class(name: str) -> type[Tracker] | None:
    """The class of the trackers of that name, None where there is no such backend."""
    found = backends().get(name)
    return None if found is None else found.kind


def able(ability: Callable[..., Any]) -> dict[str, Backend]:
    """The backends that override a method of `Backend`."""
    name = ability.__name__
    return {key: found for key, found in backends().items() if getattr(type(found), name) is not ability}


def ask(question: Callable[[Backend], T]) -> dict[str, T]:
    """Each backend's answer. One of another package that fails is left out, with a warning that names the package.

    Raises:
        ImportError: of a backend of this package; the message names the extra to install.
    """
    answers = {backend.name: question(backend) for backend in BUILT_IN}
    for name, (backend, package) in _others().items():
        answer = tried(package, name, partial(question, backend))
        answers |= {} if answer is None else {name: answer}
    return answers | {ANY_OTHER.name: question(ANY_OTHER)}


def trackers_for(
    callbacks: Iterable[Any] | None,
    slack: SlackNotifier | str | bool | None = None,
    notify: Iterable[Channel] | None = None,
    messages: str | None = None,
) -> list[Tracker]:
    """A tracker for each run that is open.

    Args:
        callbacks: `trainer.callback_handler.callbacks`, in whose order the trackers come; None without a trainer.
        slack: a notifier, a webhook's address, None for the one in `RLDK_SLACK_WEBHOOK_URL` if set, False for none.
        notify: further channels; None for those in `RLDK_NOTIFY_URLS`.
        messages: words for channels that have none of their own, as for `Channel`.

    Raises:
        ImportError: a backend's package is missing; the message names the extra to install.
        ValueError: an address is not usable.
    """
    trackers: list[Tracker] = []
    served: set[str] = set()
    for callback in callbacks or ():
        name, made = _serving(callback)
        # DagsHub's callback is an MLflow callback: both write to the one MLflow run.
        trackers += made if name not in served or name == ANY_OTHER.name else []
        served.add(name)
    for name, made in ask(lambda backend: _open_run(backend, is_alone=callbacks is None)).items():
        trackers += made if name not in served else []
    to_people: list[Channel] = [*_notifier(slack, messages), *(channels(None, messages) if notify is None else notify)]
    for channel in to_people:
        channel.link_to(trackers)
    return [*trackers, *to_people]


def resumed(name: str, to: Mapping[str, str], secrets: Mapping[str, str]) -> Tracker:
    """The tracker of another process's run, see `Tracker.resume`.

    Raises:
        ValueError: there is no such tracker, or no run is named.
        ImportError: a backend's package is missing.
        OSError: the backend cannot be reached.
    """
    kind = tracker_class(name)
    if kind is None:
        raise ValueError(f"there is nothing to send to a tracker named {name[:40]!r}")
    return kind.resume(to, secrets)


def _serving(callback: Any) -> tuple[str, list[Tracker]]:
    """The backend that a callback stands for, and its tracker; of several the first."""
    answers = ask(lambda backend: [backend.tracker(callback)] if backend.joins(callback) else [])
    return next(((name, made) for name, made in answers.items() if made), ("", []))


def _open_run(backend: Backend, is_alone: bool) -> list[Tracker]:
    return [backend.tracker()] if (is_alone or not backend.callback) and backend.is_open() else []


def _notifier(slack: SlackNotifier | str | bool | None, messages: str | None) -> list[SlackNotifier]:
    if isinstance(slack, SlackNotifier):
        return [slack]
    if isinstance(slack, str):
        return [SlackNotifier(slack, messages=messages)]
    if slack is False or not os.environ.get(ENVIRONMENT):
        return []
    return [SlackNotifier(messages=messages)]


@cache
def _others() -> dict[str, tuple[Backend, str]]:
    """The backends of other packages, and these packages' names."""
    found: dict[str, tuple[Backend, str]] = {}
    for extension in extensions(TRACKERS):
        package, name, value = extension.package, extension.name, extension.value
        backend = tried(package, name, value) if isinstance(value, type) else value
        if backend is None:
            continue
        if not isinstance(backend, Backend):
            leave_out(package, name, "it is no rldk_tracking.trackers.backend.Backend")
        elif backend.name in {*found, ANY_OTHER.name, *(ours.name for ours in BUILT_IN)}:
            leave_out(package, name, f"there is a backend named {backend.name!r} already")
        else:
            found[backend.name] = backend, package
    return found
