"""The courier's process: follows the journals that it is told of, each in threads of its own."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rldk_tracking.journal.courier import LOOK_S, Follower
from rldk_tracking.journal.log import courier_log
from rldk_tracking.journal.target import Target

IDLE_S = 10.0
"""With nothing to follow for so long the process ends. The training starts another one when it needs one."""


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
            trainers = [follower.trainer for follower in followers.values()]
        trainer_is_gone = bool(trainers) and not any(trainer.is_alive for trainer in trainers)
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
    if message.get("hurry"):
        if follower is not None:
            follower.watch.hurry()
        return
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
