"""As much of a training as the courier sees: a journal that grows by a line a step.

Options, as one JSON object: folder; run_id and uri, or experiment and uri, of MLflow; slack, an address; notify,
whether it tells the channels in RLDK_NOTIFY_URLS; worse_at, a step with a critical alert; steps, or
until_enough, for as many steps as it takes until there is a file of the name `enough`; pause, seconds of a step;
alert_at, a step; kill_at, a step in the middle of whose line the process is killed; end, whether it says how it ended;
status, how; timeout, seconds for the end; no_process, no_thread, to have neither; resumed_at.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.watched import as_data, watched_rules
from rldk_tracking.journal.journal import Journal
from rldk_tracking.journal.offset import named
from rldk_tracking.journal.process import courier
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.lines import dumps, row_record
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.notify import channels
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal.conftest import an_alert, row


def main(options: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.WARNING)
    if options.get("no_process"):
        subprocess.Popen.__init__ = _refuse  # type: ignore[method-assign]
    if options.get("no_thread"):
        threading.Thread.start = _no_thread  # type: ignore[method-assign]
    info = RunInfo(name="a try", trainer="GRPOTrainer", output_dir=options["folder"])
    trackers: list[Any] = []
    if "uri" in options:
        trackers.append(MLflowTracker(options.get("run_id"), options["uri"], options.get("experiment")))
    if "slack" in options:
        trackers.append(SlackNotifier(options["slack"], allow_loopback=True))
    trackers += channels() if options.get("notify") else []
    destinations = named(trackers)
    for tracker in trackers:
        tracker.open(info)
    resumed_at = options.get("resumed_at")
    journal = Journal.open(Path(options["folder"]) / "_rldk", [(t.name, t.address()) for t in trackers], resumed_at)
    rules = as_data(watched_rules(rules_for("safe")))
    journal.begin(info, 1, rules, resumed_at)
    for destination in destinations:
        journal.destination(destination.id, destination.tracker)
    journal.call("status", "running", {}, resumed_at or 0)
    service = courier()
    service.follow(journal, destinations, rules)
    first, step = (resumed_at or 0) + 1, 0
    for step in itertools.count(first):
        if Path("enough").exists() if options.get("until_enough") else step > options.get("steps", 20):
            break
        if step == options.get("kill_at"):
            half = dumps(row_record(step, row(step), [], time.time()))[:60]
            os.write(journal._file.open(), half.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        alerts = [an_alert(step)] if step == options.get("alert_at") else []
        alerts += [an_alert(step, "reward.nan", severity="critical")] if step == options.get("worse_at") else []
        journal.row(step, row(step), alerts)
        service.check()
        process = service._process
        print(f"courier {process.pid if process else None}", flush=True)
        print(f"step {step}", flush=True)
        time.sleep(options.get("pause", 0.1))
    if options.get("end", True):
        journal.call("status", options.get("status", "finished"), row(step - 1), step - 1)
        journal.end(options.get("status", "finished"), step - 1)
        start = time.monotonic()
        done = service.wait(journal, options.get("timeout", 20.0))
        print(f"delivered {done} {time.monotonic() - start:.2f}", flush=True)
    print(f"imported apprise {'apprise' in sys.modules}", flush=True)
    print(f"run {[getattr(tracker, 'run_id', None) for tracker in trackers]}", flush=True)
    journal.close()


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("no more processes")


def _no_thread(*_: Any) -> None:
    raise RuntimeError("can't start new thread")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
