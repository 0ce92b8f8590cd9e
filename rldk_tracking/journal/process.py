"""The trainer's side of the courier: starts its process, starts it again where it dies, and waits for it at the end.

Used on rank 0 only. One process serves all journals of a training process. Where none can be started, or where the
server takes the trainer's credentials and not the courier's, the same work is done in a thread, which is said once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from rldk_tracking.charts.announce import announce
from rldk_tracking.journal.courier import Follower
from rldk_tracking.journal.delivery import Delivery, say_what_is_left, wait_for
from rldk_tracking.journal.journal import Journal
from rldk_tracking.journal.offset import Destination

__all__ = ["CourierProcess", "Destination", "courier"]

logger = logging.getLogger(__name__)

_DEATHS = 3
_DEATHS_WITHIN_S = 60.0
LOOK_S = 2.0
"""Seconds between two looks at the courier, and at the offsets of one journal."""


class CourierProcess:
    """The courier of this process. Nothing here raises, and a forked child's calls do nothing."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._created = psutil.Process().create_time()
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._unsent = bytearray()
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._uses_threads = False
        self._said: set[str] = set()
        self._deliveries: dict[Path, Delivery] = {}
        self._look_at = 0.0

    def follow(
        self, journal: Journal, destinations: Sequence[Destination], rules: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Have a journal delivered from now on; again with further destinations, or when it goes on.

        Args:
            journal: begun, with a `destination` record for each of these.
            destinations: where it goes. With none, the courier still notices a training that dies.
            rules: parameters of the rules of the family `run` that are on, by id.
        """
        if not self._is_ours():
            return
        delivery = self._deliveries.setdefault(journal.path, Delivery(journal, rules))
        delivery.journal, delivery.rules, delivery.since = journal, rules, time.monotonic()
        delivery.is_over = delivery.is_handed_over = False
        for destination in destinations:
            delivery.destinations[destination.id] = destination
            delivery.adopted.pop(destination.id, None)
            delivery.printed[destination.id] = len(delivery.read(destination.id).said)
        if journal.memory is not None or self._uses_threads:
            self._in_thread(delivery, destinations)
        elif self._process is None or self._process.poll() == 0:  # which had nothing to follow for a while
            self._start()
        else:
            self._send(self._message(delivery, destinations))

    def check(self) -> None:
        """Now and then: start the courier again where it died, take over what it cannot do, print what it announced."""
        if not self._is_ours() or not self._deliveries:
            return
        if self._process is not None and self._process.poll() is not None:
            self._bury()
        if self._unsent:
            self._send(b"")
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        for path, delivery in list(self._deliveries.items()):
            if delivery.journal.memory is not None or self._uses_threads:
                self._take_over(delivery)
            self._look(delivery)
            if delivery.is_over and not delivery.left():
                self._deliveries.pop(path)

    def health(self, journal: Journal) -> dict[str, float]:
        """`rldk/system/tracker_errors`, calls that failed so far, and `trackers_down`, how many do not answer."""
        delivery = self._deliveries.get(journal.path)
        if delivery is None or not delivery.destinations:
            return {}
        return {
            "rldk/system/tracker_errors": float(delivery.errors),
            "rldk/system/trackers_down": float(delivery.down),
        }

    def release(self, journal: Journal) -> None:
        """The journal has its end record, and nobody waits for its delivery before the process ends."""
        delivery = self._deliveries.get(journal.path)
        if delivery is not None:
            delivery.is_over = True

    def wait(self, journal: Journal, timeout_s: float) -> bool:
        """Wait until the journal, which has its end record, is delivered, and say what is not.

        Returns:
            Whether all is. A destination that does not answer is not waited for longer than 3 s.
        """
        delivery = self._deliveries.get(journal.path)
        return delivery is None or self._wait([delivery], timeout_s)

    def wait_for_all(self, timeout_s: float) -> bool:
        """The same for all journals together, when the process ends."""
        return self._wait(list(self._deliveries.values()), timeout_s)

    def _wait(self, journals: list[Delivery], timeout_s: float) -> bool:
        def look() -> None:
            self._look_at = 0.0
            self.check()

        if not self._is_ours():
            return True
        left = wait_for(journals, look, timeout_s)
        for delivery in left:
            say_what_is_left(delivery)
        for delivery in journals:
            self._deliveries.pop(delivery.journal.path, None)
        return not left

    def forget(self) -> None:
        """In a forked child: the pipe is the parent's."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                os.close(self._process.stdin.fileno())

    def _is_ours(self) -> bool:
        return os.getpid() == self._pid

    def _start(self) -> None:
        # The courier must find what this process has found, and nothing that happens to lie in the working folder.
        paths = [path for path in sys.path if path]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "rldk_tracking.courier"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                close_fds=True,
                env=environment,
            )
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
        except (OSError, ValueError, TypeError) as error:
            self._process = None
            self._fall_back(f"No process can be started for it ({type(error).__name__})")
            return
        self._process = process
        self._environment = dict(os.environ)
        self._unsent.clear()
        for delivery in self._deliveries.values():
            if delivery.journal.memory is None:
                self._send(self._message(delivery, delivery.without_thread()))

    def _message(self, delivery: Delivery, destinations: Iterable[Destination]) -> bytes:
        changed = {name: value for name, value in os.environ.items() if self._environment.get(name) != value}
        self._environment |= changed
        message = {
            "journal": str(delivery.journal.path.absolute()),
            "pid": self._pid,
            "created": self._created,
            "destinations": [vars(destination.target()) for destination in destinations],
            "environment": changed,
            "rules": {name: dict(parameters) for name, parameters in delivery.rules.items()},
        }
        return json.dumps(message, default=str).encode() + b"\n"

    def _send(self, data: bytes) -> None:
        """Write to the pipe, without waiting for a courier that does not read."""
        self._unsent += data
        if self._process is None or self._process.stdin is None:
            return
        try:
            while self._unsent:
                written = os.write(self._process.stdin.fileno(), self._unsent)
                del self._unsent[:written]
        except OSError:  # full, or broken: then `check` sees the end of the process
            pass

    def _bury(self) -> None:
        """The process has died."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process = None
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == _DEATHS and now - self._deaths[0] < _DEATHS_WITHIN_S:
            self._fall_back("Its process died three times within a minute")
        else:
            self._start()

    def _fall_back(self, cause: str) -> None:
        self._uses_threads = True
        self._say(f"{cause}: the courier works in a thread of the training instead, and ends with it.")
        for delivery in self._deliveries.values():
            self._take_over(delivery)

    def _take_over(self, delivery: Delivery) -> None:
        """The journal goes on in this process's memory, or there is no other: its destinations are served here."""
        if not delivery.is_handed_over:
            delivery.is_handed_over = True
            if self._process is not None:
                self._send(
                    json.dumps({"journal": str(delivery.journal.path.absolute()), "leave": True}).encode() + b"\n"
                )
        if destinations := delivery.without_thread():
            self._in_thread(delivery, destinations)

    def _in_thread(self, delivery: Delivery, destinations: Sequence[Destination], holds_lock: bool = True) -> None:
        journal = delivery.journal
        follower = Follower(
            journal.path,
            self._pid,
            self._created,
            [destination.target() for destination in destinations],
            delivery.rules,
            logger,
            memory=lambda: journal.memory,
            holds_lock=holds_lock,
        )
        try:
            follower.start()
        except RuntimeError as error:  # tried again at the next look
            delivery.is_unserved = True
            self._say(f"No thread can be started ({error}): `rldk-tracking sync` sends what is in {journal.path}.")
            return
        delivery.is_unserved = False
        delivery.threads |= {destination.id: follower for destination in destinations}

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.warning("%s", text)

    def _look(self, delivery: Delivery) -> None:
        for name, destination in delivery.destinations.items():
            offset = delivery.read(name)
            for line in offset.said[delivery.printed.get(name, 0) :]:
                announce(line)
            delivery.printed[name] = len(offset.said)
            if offset.to != delivery.adopted.get(name):
                delivery.adopted[name] = dict(offset.to)
                destination.tracker.adopt(offset.to)
            if offset.refused and name not in delivery.threads:
                self._say(f"{name} takes no credentials of the courier's: a thread of the training serves it instead.")
                self._in_thread(delivery, [destination], holds_lock=False)
        delivery.count()


_courier: CourierProcess | None = None


def courier() -> CourierProcess:
    """The courier of this process. A forked child has one of its own."""
    global _courier
    if _courier is None or _courier._pid != os.getpid():
        _courier = CourierProcess()
    return _courier


def _forget_in_child() -> None:
    if _courier is not None:
        _courier.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
