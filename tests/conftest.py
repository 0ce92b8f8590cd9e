"""No network, no telemetry, one thread a process: what every test, and every process that it starts, runs under."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
PRIVATE = (
    *(name for name in os.environ if name.startswith("RLDK_") and not name.startswith(("RLDK_TEST_", "RLDK_VERSION_"))),
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_RUN_ID",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
)
"""Settings of the person who runs the tests, which must not be reached by them."""

SESSION = "RLDK_TEST_SESSION"
"""Names this process in the environment of every process that it starts."""

os.environ.update(ENVIRONMENT)
os.environ[SESSION] = str(os.getpid())
for name in PRIVATE:
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell gives that to what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


FOLDERS = {"examples": "slow", "faults": "faults", "runs": "slow"}
"""Marker of every test in a folder. Other tests that are slow, or need much, say so themselves."""


TRAIN = {"demo", "e2e", "faults", "monitors", "runs", "sources"}
"""Folders whose tests train in their own process."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Take what is there before a module's tests out of what the collector looks at.

    PPOTrainer collects garbage twice a step, and to look at all that is imported takes longer than the step.
    """
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    if folder in TRAIN and item.path != _frozen[0]:
        _frozen[0] = item.path
        gc.unfreeze()
        gc.collect()
        gc.freeze()


_frozen: list[Path | None] = [None]
"""The module before whose tests that was done."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(tests).parts[0] if item.path.is_relative_to(tests) else ""
        if folder in FOLDERS:
            item.add_marker(FOLDERS[folder])


class Results:
    """Which tests ran and which were skipped, for `tests/union.py` to hold the environments against each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ran: set[str] = set()
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped:
            where = report.longrepr
            self.skipped[report.nodeid] = str(where[2] if isinstance(where, tuple) else where)
        elif getattr(report, "when", None) == "call" and report.passed:
            self.ran.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps({"ran": sorted(self.ran), "skipped": self.skipped}, indent=1))


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("RLDK_TEST_RESULTS")
    is_part = bool(config.option.markexpr or config.option.keyword)  # says nothing of the tests that it leaves out
    if path and not is_part and not hasattr(config, "workerinput"):  # of parallel runs, the process that hears of all
        config.pluginmanager.register(Results(Path(path)))


@pytest.fixture(scope="module", autouse=True)
def _mlflow_as_it_was() -> Iterator[None]:
    """MLflow keeps its store and experiment for the whole process, and in the environment of those that it starts."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")
    before = {name: os.environ.get(name) for name in names}
    yield
    mlflow = sys.modules.get("mlflow")
    if mlflow is not None and "mlflow.tracking.fluent" in sys.modules:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        sys.modules["mlflow.tracking.fluent"]._active_experiment_id = None  # type: ignore[attr-defined]
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def _rldk_as_it_was() -> Iterator[None]:
    """Programs set what makes the package silent for their whole process: the next test's is none of theirs."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RLDK_")}
    yield
    for name in [name for name in os.environ if name.startswith("RLDK_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module", autouse=True)
def _wandb_as_it_was() -> Iterator[None]:
    """W&B reads its settings once for the whole process: the next module's are not those of a test that is over."""
    yield
    wandb = sys.modules.get("wandb")
    if wandb is not None and hasattr(wandb, "teardown"):
        if wandb.run is not None:
            wandb.finish()
        wandb.teardown()


@pytest.fixture(scope="module", autouse=True)
def _no_courier_stays() -> Iterator[None]:
    """One whose server does not answer would go on trying for hours."""
    yield
    import psutil

    process = sys.modules.get("rldk_tracking.journal.process")
    if process is not None:
        process._courier = None  # type: ignore[attr-defined]
    for found in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_courier = found.cmdline()[-1:] == ["rldk_tracking.courier"]
            if is_courier and found.environ().get(SESSION) == str(os.getpid()):
                found.kill()


@pytest.fixture
def make_alert() -> Callable[..., Alert]:
    """Makes an alert of KL; any field can be another."""
    from rldk_tracking.health.alert import Alert

    def make(rule: str = "kl.high", **changes: Any) -> Alert:
        fields: dict[str, Any] = {
            "rule": rule,
            "severity": "warning",
            "state": "firing",
            "step": 12,
            "first_step": 10,
            "value": 0.31,
            "threshold": 0.2,
            "message": "KL to the reference is 0.31 nats per token, above 0.2.",
            "advice": "Lower the learning rate or raise beta.",
            "key": "rldk/kl/ref_k3",
        }
        return Alert(**(fields | changes))

    return make
