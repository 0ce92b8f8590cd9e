"""W&B for the package's commands: its runs on this machine, its past runs, and the log of a killed training."""

from __future__ import annotations

import json
import netrc
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.messages.packages import imported, install_line
from rldk_tracking.trackers.backend import Backend, DemoStore, PastRun
from rldk_tracking.trackers.base import RejectedError, Tracker, UnavailableError
from rldk_tracking.trackers.wandb import STEP, WandbTracker


class WandbStore(DemoStore):
    """W&B, offline where there is no key."""

    report_to: ClassVar[str] = "wandb"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runs: list[str] = []
        self._offline = True

    def prepare(self) -> None:
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise ImportError(f"W&B is not installed: {install_line('demo', 'wandb')}") from error
        os.environ.setdefault("WANDB_PROJECT", "rldk-demo")
        os.environ.setdefault("WANDB_DIR", str(self.folder))
        if not has_key():
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


class WandbBackend(Backend):
    """See `WandbTracker`."""

    kind = WandbTracker
    title: ClassVar[str] = "W&B"
    packages: ClassVar[tuple[str, ...]] = ("wandb", "wandb-workspaces")
    extra: ClassVar[str] = "wandb"
    callback: ClassVar[str] = "WandbCallback"
    sources: ClassVar[str] = "wandb:ENTITY/PROJECT/RUN or wandb:ENTITY/PROJECT"
    demo = WandbStore

    def is_open(self) -> bool:
        return getattr(sys.modules.get("wandb"), "run", None) is not None

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str]:
        if versions["wandb"] is None:
            return False, self.how_to_install
        mode = os.environ.get("WANDB_MODE")
        return True, f"WANDB_MODE is {mode}" if mode else "mode as wandb decides"

    def notes(self, versions: Mapping[str, str | None]) -> list[str]:
        if versions["wandb"] is None or os.environ.get("WANDB_MODE", "") in ("offline", "disabled"):
            return []
        return [
            "W&B: where its server does not answer, wandb.init raises after about 100 s and training does not begin. "
            "WANDB_MODE=offline trains without the server, and `wandb sync` uploads the run later."
        ]

    def missing(self, to: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """What is not in the local log of the training's process, from which `wandb sync` completes the rest."""
        log = to.get("log")
        if log is None or not Path(log).exists():
            return []
        steps, alerts = _contents(log)
        return [record for record in records if not _is_there(record, steps, alerts)]

    def read(self, path: str, skip: tuple[str, ...], also: Collection[str] = ()) -> PastRun:
        wandb = imported("wandb", "Reading W&B runs")
        if len([part for part in path.split("/") if part]) != 3 or path.count("/") != 2:
            raise RejectedError("write wandb:ENTITY/PROJECT/RUN.")
        try:
            run = wandb.Api().run(path)
            entries = [
                {key: value for key, value in entry.items() if value is not None and not key.startswith(skip)}
                for entry in run.scan_history()
            ]
        except (ValueError, wandb.errors.Error) as error:
            raise RejectedError(str(error)) from error
        settings = {key: value for key, value in run.config.items() if isinstance(value, (int, float, str))}
        return PastRun(entries, settings)

    def runs(self, path: str) -> list[str]:
        """Those of a project, newest first."""
        if path.count("/") != 1 or not all(path.split("/")):
            return [path]
        wandb = imported("wandb", "Reading W&B runs")
        try:
            found = [f"{path}/{run.id}" for run in wandb.Api().runs(path, order="-created_at")]
        except (ValueError, wandb.errors.Error) as error:
            raise RejectedError(str(error)) from error
        if not found:
            raise RejectedError("the project has no run.")
        return found

    @contextmanager
    def written_back(self, source: str) -> Iterator[tuple[Tracker, set[str]]]:
        """Always a new run: W&B does not take rows of earlier steps."""
        import wandb

        try:
            run = wandb.init(project="rldk-replay", config={"source": source})
        except wandb.errors.Error as error:
            raise UnavailableError(str(error)) from error
        yield WandbTracker(run), set()
        run.finish()


def has_key() -> bool:
    """Whether W&B would find a key in the environment or in the netrc file. The key itself is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


def _contents(log: str) -> tuple[set[int], list[str]]:
    """Steps of our rows, and texts of the alerts, in a log of W&B's."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", log]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    steps, alerts = set(), []
    for line in shown.splitlines():
        record = json.loads(line)
        item = record.get("history", {}).get("item", {})
        if STEP in item and any(key.startswith("rldk/") for key in item):
            steps.add(int(item[STEP]))
        if "alert" in record:
            alerts.append(str(record["alert"].get("text", "")))
    return steps, alerts


def _is_there(record: Mapping[str, Any], steps: set[int], alerts: Sequence[str]) -> bool:
    """Whether a log that has these holds a record. W&B's log has no trace of most of the others."""
    if record["type"] == "metrics":
        return record["step"] in steps
    if record["type"] == "alert":
        return any(f"Step: {record['step']} " in text for text in alerts)
    return record["type"] not in ("status", "end")
