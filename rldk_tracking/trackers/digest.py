"""Messages of the runs that share a channel, kept together until it is time for one message about all of them.

The runs meet in a folder. Each adds its messages to one file there; whichever finds the oldest of them old enough sends
all, and the last run to leave sends the rest. A digest that may have arrived is not sent again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rldk_tracking.charts.announce import announce
from rldk_tracking.health.alert import SEVERITIES, Severity
from rldk_tracking.trackers.base import RejectedError, UnavailableError
from rldk_tracking.trackers.lines import LineFile

PERIOD_S = 600.0
MOST_LINES = 20
_LOCK_S = 30.0
_PAUSE_S = 0.02

Send = Callable[[Mapping[str, list[str]], Severity, int], None]
"""Takes run to its lines, the worst severity, and how many messages more there are."""


class Digest:
    """One run's part in the digest of a channel.

    Args:
        folder: of the channel.
        period_s: seconds from the first message to the sending.

    Raises (all methods):
        UnavailableError: the folder cannot be used now, or the channel.
    """

    def __init__(self, folder: Path, period_s: float = PERIOD_S) -> None:
        self._folder, self._period_s = folder, period_s
        self._waiting, self._trying = folder / "waiting.jsonl", folder / "trying"
        self._presence: LineFile | None = LineFile(folder / f"{uuid.uuid4().hex}.run")
        with self._locked():
            self._presence.try_lock()

    @classmethod
    def of(cls, meeting: str, period_s: float, folder: str = "") -> Digest:
        """That of a channel by its address, of which the folder's name tells nothing.

        Args:
            meeting: the address.
            period_s: as above.
            folder: where runs meet; "" for this user's on this machine.

        Raises:
            ValueError: that is another user's.
        """
        name = hashlib.pbkdf2_hmac("sha256", meeting.encode(), b"rldk digest", 100_000).hex()[:16]
        base = Path(folder or Path(tempfile.gettempdir()) / f"rldk-digest-{_user()}").expanduser()
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not folder and base.lstat().st_uid != _user():
            raise ValueError(f"{base} belongs to another user; name a folder, digest:SECONDS:FOLDER")
        return cls(base / name, period_s)

    def add(self, run: str, text: str, severity: Severity) -> None:
        """Keep a message for the next digest."""
        line = json.dumps({"time": time.time(), "run": run, "text": text, "severity": severity})
        with self._locked():
            file = LineFile(self._waiting)
            file.append(line.encode() + b"\n")
            file.close()

    def send_what_is_due(self, send: Send) -> None:
        """Send the digest where its first message is old enough."""
        entries = self._entries()
        if entries and time.time() >= entries[0]["time"] + self._period_s:
            self._send(send)

    def leave(self, send: Send) -> None:
        """This run has no more to say. Send the rest where no other run is left to."""
        with self._locked():
            if self._presence is not None:
                self._presence.close()
                self._presence.path.unlink(missing_ok=True)
                self._presence = None
            others = any(_is_held(path) for path in self._folder.glob("*.run"))
        if not others:
            self._send(send)

    def _send(self, send: Send) -> None:
        with self._locked():
            entries = self._entries()
            if not entries:
                return
            if self._trying.exists():
                announce(f"a digest of {len(entries)} messages may have been sent, and is not repeated")
            else:
                self._trying.touch()
                try:
                    _send_entries(entries, send)
                except UnavailableError:
                    self._trying.unlink()
                    raise
                except RejectedError as error:
                    announce(f"a digest of {len(entries)} messages was not sent: {error}")
            self._waiting.unlink()
            self._trying.unlink()

    def _entries(self) -> list[dict[str, Any]]:
        """The messages that wait. A line that a killed process left torn is none."""
        found = []
        with suppress(FileNotFoundError):
            for line in self._waiting.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock, since = LineFile(self._folder / "lock"), time.monotonic()
        try:
            while not lock.try_lock():
                if time.monotonic() > since + _LOCK_S:
                    raise UnavailableError("the digest is being sent by another run")
                time.sleep(_PAUSE_S)
            yield
        finally:
            lock.close()


def _send_entries(entries: list[dict[str, Any]], send: Send) -> None:
    runs: dict[str, list[str]] = {}
    for entry in entries[:MOST_LINES]:
        runs.setdefault(entry["run"], []).append(entry["text"])
    worst: Severity = max((s for s in SEVERITIES if any(e["severity"] == s for e in entries)), key=SEVERITIES.index)
    send(runs, worst, max(0, len(entries) - MOST_LINES))


def _is_held(path: Path) -> bool:
    """Whether the run is there still whose presence this is; that of one that is gone is removed."""
    file = LineFile(path)
    is_free = file.try_lock()
    file.close()
    if is_free:
        path.unlink(missing_ok=True)
    return not is_free


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
