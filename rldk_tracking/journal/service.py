"""The courier's process: follows the journals that it is given, each in threads of its own."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Any

from rldk_tracking.journal.courier import LOOK_S, Follower
from rldk_tracking.journal.offset import Target

IDLE_S = 10.0
"""With nothing to follow for so long the process ends. The training starts another one when it needs one."""
_LARGEST_BYTES = 256 * 1024
"""Of its log."""


def serve(source: IO[bytes]) -> None:
    """Follow the journals that `source` names, one JSON object a line, until they are delivered.

    It goes on after the trainer is gone, and ends when it has had nothing to follow for a while.
    """
    followers: dict[str, Follower] = {}
    lock = threading.Lock()
    busy_until = time.monotonic()

    def listen() -> None:
        for line in source:
            try:
                message = json.loads(line)
                with lock:
                    _obey(message, followers)
            except (ValueError, KeyError, TypeError, OSError):
                continue

    listening = threading.Thread(target=listen, name="rldk-listen", daemon=True)
    listening.start()
    while True:
        with lock:
            active = [follower for follower in followers.values() if follower.is_alive()]
            trainer_is_gone = bool(followers) and not any(f.trainer_is_alive for f in followers.values())
        if active:
            busy_until = time.monotonic()
        elif trainer_is_gone or not listening.is_alive() or time.monotonic() > busy_until + IDLE_S:
            return
        listening.join(LOOK_S)
        if active:
            active[0].join(LOOK_S)


def _obey(message: Mapping[str, Any], followers: dict[str, Follower]) -> None:
    journal = str(message["journal"])
    follower = followers.get(journal)
    if message.get("leave"):
        if follower is not None:
            follower.leave()
        return
    os.environ.update({str(name): str(value) for name, value in message.get("environment", {}).items()})
    targets = [
        Target(str(one["id"]), str(one["tracker"]), dict(one["to"]), dict(one["secrets"]))
        for one in message["destinations"]
    ]
    if follower is not None and follower.is_alive():
        for target in targets:
            follower.add(target)
        return
    path = Path(journal)
    follower = Follower(
        path, int(message["pid"]), float(message["created"]), targets, message.get("rules", {}), courier_log(path)
    )
    followers[journal] = follower
    follower.start()


def courier_log(journal: Path) -> logging.Logger:
    """The log of a journal, `run.courier.log`, readable by its owner only; one older file next to it at most."""
    path = journal.with_name(f"{journal.stem}.courier.log")
    log = logging.getLogger(f"rldk_tracking.courier.{str(path).replace('.', '_')}")
    if not log.handlers:
        log.addHandler(_Private(path, maxBytes=_LARGEST_BYTES, backupCount=1, delay=True, encoding="utf-8"))
        log.handlers[0].setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


class _Private(RotatingFileHandler):
    def _open(self):  # type: ignore[no-untyped-def]
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT, 0o600))
        return super()._open()
