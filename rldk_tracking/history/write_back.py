"""Series and alerts of a past run, written into MLflow or W&B after the fact."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rldk_tracking.history.reading import read
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Tracker, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rldk_tracking.history.replay import ReplayResult


class NotWrittenError(Exception):
    """The tracker did not take a run; the message says which and why."""


def write_back(source: str, result: ReplayResult, backend: str, aliases: Mapping[str, str] | None = None) -> None:
    """Write a run's series and alerts into the run that it was read from, else into a new one.

    Args:
        source: as for `replay`. An `mlflow:RUN_ID` is that run: it gets the series that it does not have yet.
        result: what the rules said of it.
        backend: "mlflow" or "wandb".
        aliases: as for `replay`.

    Raises:
        NotWrittenError: the tracker cannot be reached or does not take it.
        ImportError: its client is not installed.
    """
    with _refusals(source, backend):
        tracker, known, finish = _tracker(source, backend)
        tracker.open(RunInfo(name=source, trainer="replay"))
        for entry in read(source, aliases).entries:
            row = {key: value for key, value in entry.row.items() if key not in known}
            if row:
                tracker.log(row, entry.step)
        for _, alert in result.alerts:
            tracker.alert(alert)
        tracker.status(result.verdict if result.verdict in ("warning", "critical") else "finished", {}, 0)
        tracker.close()
        finish()


@contextmanager
def _refusals(source: str, backend: str) -> Iterator[None]:
    """Exceptions of a tracker, and of the client below it, as `NotWrittenError`."""
    if backend == "mlflow":
        from mlflow.exceptions import MlflowException as ClientError
    else:
        from wandb.errors import Error as ClientError
    try:
        yield
    except (ClientError, UnavailableError, RejectedError) as error:
        raise NotWrittenError(f"{source}: not written into {backend}: {error}") from error


def _tracker(source: str, backend: str) -> tuple[Tracker, set[str], Callable[[], object]]:
    """Where to write, the series that are there, and how to end what was begun for it."""
    if backend == "mlflow":
        from mlflow import MlflowClient

        from rldk_tracking.trackers.mlflow import MLflowTracker

        if source.startswith("mlflow:"):
            run_id = source.removeprefix("mlflow:")
            return MLflowTracker(run_id=run_id), set(MlflowClient().get_run(run_id).data.metrics), _nothing
        return MLflowTracker(experiment="rldk-replay"), set(), _nothing
    import wandb

    from rldk_tracking.trackers.wandb import WandbTracker

    run = wandb.init(project="rldk-replay", config={"source": source})
    return WandbTracker(run), set(), run.finish


def _nothing() -> None:
    """MLflow's tracker ends what it began."""
