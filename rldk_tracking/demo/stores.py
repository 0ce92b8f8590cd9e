"""Where the demo's runs are kept, for each tracker, and how a person opens them."""

from __future__ import annotations

import netrc
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from rldk_tracking.charts.mlflow import run_path, view_path

if TYPE_CHECKING:
    from rldk_tracking.trackers.base import Tracker

EXPERIMENT = "rldk-demo"
SERVER = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens."""


class Store(ABC):
    """One place for runs.

    Attributes:
        report_to: what the trainer is told.
    """

    report_to: str = "none"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def prepare(self) -> None:
        """Set up the store before the first run.

        Raises:
            ImportError: the backend is not installed; the message names the extra.
        """

    def trackers(self, name: str) -> list[Tracker] | None:
        """The trackers of a run; None for those that `report_to` names."""
        return None

    @abstractmethod
    def finished(self, name: str) -> None:
        """Note where the run that has just ended is to be found."""

    @abstractmethod
    def how_to_open(self) -> list[str]:
        """Lines for the terminal: the command, then an address or a file for each run."""


class MLflowStore(Store):
    """A sqlite file in the folder, with the artifacts beside it."""

    report_to = "mlflow"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pages: list[str] = []
        self._both = SERVER

    @property
    def uri(self) -> str:
        """Relative where the folder is the working folder, so that the command is short."""
        path = self.folder / "mlflow.db"
        return f"sqlite:///{path.name}" if self.folder == Path.cwd() else f"sqlite:///{path}"

    def prepare(self) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ImportError("MLflow is not installed: pip install 'rldk-tracking[demo]'") from error
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        os.environ["MLFLOW_EXPERIMENT_NAME"] = EXPERIMENT
        mlflow.set_tracking_uri(self.uri)
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=(self.folder / "mlruns").as_uri())

    def finished(self, name: str) -> None:
        import mlflow

        info = mlflow.last_active_run().info
        self._both = f"{SERVER}/{view_path(info.experiment_id)}"
        self._pages.append(f"  {name:<18}{SERVER}/{run_path(info.experiment_id, info.run_id)}")

    def how_to_open(self) -> list[str]:
        return [
            "Open the pages, in a browser, while this command runs:",
            f"  mlflow ui --backend-store-uri {self.uri}",
            *self._pages,
            f"  {'charts of all':<18}{self._both}",
        ]


class WandbStore(Store):
    """W&B, offline where there is no key."""

    report_to = "wandb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runs: list[str] = []
        self._offline = True

    def prepare(self) -> None:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise ImportError("W&B is not installed: pip install 'rldk-tracking[demo,wandb]'") from error
        os.environ.setdefault("WANDB_PROJECT", EXPERIMENT)
        os.environ.setdefault("WANDB_DIR", str(self.folder))
        if not has_wandb_key():
            os.environ.setdefault("WANDB_MODE", "offline")

    def finished(self, name: str) -> None:
        import wandb

        run = wandb.run
        if run is None:
            return
        self._offline = bool(run.offline)
        self._runs.append(f"  {name:<18}{Path(run.dir).parent if self._offline else run.url}")
        run.finish()

    def how_to_open(self) -> list[str]:
        if not self._offline:
            return ["Open the runs' pages:", *self._runs]
        return [
            "The runs are on this disk. `wandb sync FOLDER` uploads one, `wandb leet FOLDER` shows it in the terminal:",
            *self._runs,
        ]


class JsonlStore(Store):
    """A file of JSON lines for each run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._files: list[str] = []

    def prepare(self) -> None:
        (self.folder / "rldk_demo").mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of a run."""
        return self.folder / "rldk_demo" / f"{name}.jsonl"

    def trackers(self, name: str) -> list[Tracker] | None:
        from rldk_tracking.trackers.jsonl import JsonlTracker

        self.path(name).unlink(missing_ok=True)
        return [JsonlTracker(self.path(name))]

    def finished(self, name: str) -> None:
        self._files.append(f"  {name:<18}{self.path(name)}")

    def how_to_open(self) -> list[str]:
        return ["One JSON object a line:", *self._files]


STORES: dict[str, type[Store]] = {"mlflow": MLflowStore, "wandb": WandbStore, "jsonl": JsonlStore}
"""Name on the command line to store."""


def has_wandb_key() -> bool:
    """Whether W&B would find a key in the environment or in the netrc file. The key itself is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
