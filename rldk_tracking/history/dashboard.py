"""Opens the pages on runs: an MLflow server over a local store, the tracker's own, or the report of a training."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rldk_tracking.charts.announce import announce
from rldk_tracking.charts.mlflow import VIEW_TAG, view_path
from rldk_tracking.history.live_page import HOST, LivePage
from rldk_tracking.history.past import newest_journal
from rldk_tracking.messages.arguments import NamedArguments, flag, folder, whole_number
from rldk_tracking.messages.packages import imported

logger = logging.getLogger(__name__)

STORE = "mlflow.db"
START_SECONDS = 90.0


class RLDKDashboard(NamedArguments):
    """The charts of the runs, in the tracker that they are in.

        dashboard = RLDKDashboard()
        dashboard.start_dashboard()   # "http://127.0.0.1:5000/#/experiments/1/runs?..."

    Args:
        output_dir: a folder with an MLflow store, `mlflow.db`; or that of a training, whose report is shown and kept
            fresh while it trains. Without it the store that MLflow is set to, or the project of the W&B run that is
            open in this process.
        port: of the server on this machine, 0 for any that is free. It is reached from this machine only.
        auto_refresh: True, because the pages follow a running training by themselves: the saved view is written with
            MLflow's auto-refresh on, every 30 seconds, and W&B's workspace is live. False cannot be had from here,
            since a view is everybody's, and is answered with a warning that says where a person switches it off.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `port` is none, or `output_dir` has neither a store nor a run.

    Examples:
        >>> import tempfile
        >>> from rldk_tracking import RLDKCallback, RLDKDashboard
        >>> folder = tempfile.mkdtemp()
        >>> with RLDKCallback(output_dir=folder) as callback:
        ...     _ = callback.observe(step=1, metrics={"loss": 0.5})
        >>> dashboard = RLDKDashboard(folder)  # then dashboard.start_dashboard()
    """

    def __init__(
        self, output_dir: str | os.PathLike[str] | None = None, port: int = 5000, auto_refresh: bool = True
    ) -> None:
        whole_number("port", port, low=0, high=65535)
        flag("auto_refresh", auto_refresh)
        place = folder("output_dir", output_dir, '"the/folder/of/the/training"')
        self.output_dir = None if place is None else Path(place).resolve()
        if self.output_dir is not None and not self._has_store and newest_journal(self.output_dir) is None:
            raise ValueError(
                f"{self.output_dir} has neither an MLflow store ({STORE}) nor the journal of a run (run.jsonl, which "
                "the first step of a training writes to the folder _rldk in its output_dir)."
            )
        if not auto_refresh:
            logger.warning(
                "rldk: auto_refresh=False has no effect, the tracker's pages refresh by themselves. To hold them, "
                "switch off Auto-refresh on MLflow's page (the three dots beside the search field), or hide the run in "
                "W&B."
            )
        self.port = port
        self.auto_refresh = True
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Any = None
        self._page: LivePage | None = None

    def start_dashboard(self) -> str:
        """The address of the charts, once they can be opened. Starts a server where none is needed only once.

        Raises:
            ImportError: mlflow is not installed.
            OSError: the port is taken, or the server does not start; the message holds its last words.
        """
        address = self._wandb_page() if self.output_dir is None else None
        if self.output_dir is not None and not self._has_store:
            address = self._report_page(self.output_dir)
        elif address is None:
            address = self._mlflow_page()
        announce(f"charts: {address}")
        return address

    def stop(self) -> None:
        """End the server, if one was started here."""
        if self._page is not None:
            self._page.stop()
            self._page = None
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.stop)
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
                process.wait(10)
        self._log.close()

    @property
    def _has_store(self) -> bool:
        return self.output_dir is not None and (self.output_dir / STORE).is_file()

    def _report_page(self, folder: Path) -> str:
        if self._page is None:
            _free(self.port)
            self._page = LivePage(folder, self.port)
            self.port = self._page.port
        return self._page.address

    def _wandb_page(self) -> str | None:
        """The project of this process's W&B run; None where there is none, or it is on this disk only."""
        run = getattr(sys.modules.get("wandb"), "run", None)
        return None if run is None or run.offline else str(run.project_url)

    def _mlflow_page(self) -> str:
        mlflow = imported("mlflow", "The dashboard")
        uri = mlflow.get_tracking_uri() if self.output_dir is None else f"sqlite:///{self.output_dir / STORE}"
        server = _without_credentials(uri) if uri.startswith(("http://", "https://")) else self._serve(uri)
        return f"{server}/{_path(mlflow.MlflowClient(tracking_uri=uri))}"

    def _serve(self, uri: str) -> str:
        if self._process is not None and self._process.poll() is None:
            return f"http://{HOST}:{self.port}"
        self.port = _free(self.port)
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1"]
        # The store's address may hold a password, which a command line would show to everybody on this machine.
        environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the server
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=self.output_dir,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        # A server in a session of its own would outlive this process.
        atexit.register(self.stop)
        self._wait(self._process)
        return f"http://{HOST}:{self.port}"

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        import requests

        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if requests.get(f"http://{HOST}:{self.port}/health", timeout=2).ok:
                    return
            except requests.exceptions.RequestException:
                time.sleep(0.2)
        log = self._log
        log.seek(0)
        words = log.read().decode(errors="replace")[-1000:]
        self.stop()
        raise OSError(f"The MLflow server did not start: {words}")


def _path(client: Any) -> str:
    """The view of the experiment that was last written to, or the list of experiments."""
    viewed = [e for e in client.search_experiments(order_by=["last_update_time DESC"]) if VIEW_TAG in e.tags]
    return view_path(viewed[0].experiment_id) if viewed else "#/experiments"


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _free(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(f"Port {port} is taken; give another, or 0 for any that is free.") from error
        return int(probe.getsockname()[1])


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, number)
    else:
        process.terminate()
