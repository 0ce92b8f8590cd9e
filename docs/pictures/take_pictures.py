"""Takes the documentation's pictures: runs the demo, serves its store on loopback, photographs pages with Chromium.

It walks the way that docs/start.md describes, and says how many seconds each part of it took.

    python docs/pictures/take_pictures.py [--store FOLDER_OF_A_FINISHED_DEMO] [--to FOLDER]

Needs Chromium (Debian: apt-get install chromium) and the demo extra.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from browser import Browser

from rldk_tracking.charts.mlflow import run_path, view_path

HERE = Path(__file__).resolve().parent
FAULT = "lr-jump"
SIZE = (1500, 1000)
PICTURED = "[...document.images].some(image => image.src.includes('overview.svg') && image.naturalWidth > 400)"
SHOWN = "[...document.images].some(image => image.naturalWidth > 400)"
DRAWN = "document.querySelectorAll('.js-plotly-plot .trace').length >= 10"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a folder in which the demo has run; by default it is run now")
    parser.add_argument("--to", type=Path, default=HERE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = (arguments.store or Path(scratch)).resolve()
        with timed("the demo"):
            if arguments.store is None:
                command = [sys.executable, "-m", "rldk_tracking.cli.main", "demo", "--fault", FAULT]
                subprocess.run([*command, "--output", str(store)], check=True)
        experiment, run = runs_of(store / "mlflow.db")[FAULT]
        rewards = run_path(experiment, run, "artifacts/rldk/charts/reward_distribution.svg")
        with ExitStack() as open_things:
            with timed("mlflow ui, until it answers"):
                address = open_things.enter_context(served(store / "mlflow.db", Path(scratch)))
            browser = open_things.enter_context(Browser(SIZE))
            with timed("the run's page, until it shows what broke"):
                browser.open(f"{address}/{run_path(experiment, run)}")
                browser.wait(PICTURED)
            take(browser, arguments.to / "run.png")
            with timed("the charts of both runs, until they are drawn"):
                browser.open(f"{address}/{view_path(experiment)}")
                browser.wait(DRAWN)
            take(browser, arguments.to / "charts.png")
            with timed("the distribution of the rewards"):
                browser.open(f"{address}/{rewards}")
                browser.wait(SHOWN)
            take(browser, arguments.to / "rewards.png")
    return 0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Says how long a part of the walk took."""
    began = time.monotonic()
    yield
    print(f"{time.monotonic() - began:5.1f} s  {what}", flush=True)


def take(browser: Browser, to: Path) -> None:
    """The page that is open, without the assistant's panel and the buttons that a chart shows under the pointer."""
    browser.evaluate("document.querySelectorAll('button[aria-label=Close]').forEach(button => button.click())")
    browser.evaluate("document.head.insertAdjacentHTML('beforeend', '<style>.modebar {display: none}</style>')")
    browser.evaluate("[...document.querySelectorAll('a, button')].find(x => x.innerText === 'Show more')?.click()")
    time.sleep(5)
    browser.photograph(to)
    print(f"         {to.name}: {to.stat().st_size // 1024} KiB")


def runs_of(database: Path) -> dict[str, tuple[str, str]]:
    """Name of a run to its experiment and id; the latest of a name."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
    return {run.info.run_name: (run.info.experiment_id, run.info.run_id) for run in found}


@contextmanager
def served(database: Path, scratch: Path) -> Iterator[str]:
    """An MLflow server on loopback, in a process group of its own that is ended with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{database}"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(scratch / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=database.parent
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/health", server)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 90.0) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urlopen(url, timeout=2):  # noqa: S310  an address on loopback, made above
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise SystemExit("The MLflow server did not start.")


if __name__ == "__main__":
    sys.exit(main())
