"""What the trainer's process knows of a journal's destinations, from their offsets."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rldk_tracking.journal.courier import Follower
from rldk_tracking.journal.journal import Journal
from rldk_tracking.journal.offset import Offset, offset_path
from rldk_tracking.journal.target import Destination

SILENT_S = 60.0
"""A destination whose offset has not appeared after so long is taken for one that is down."""


@dataclass
class Followed:
    """A journal, and what is known of its destinations.

    Attributes:
        journal, rules: as for `CourierProcess.follow`.
        destinations: by id.
        offsets: as they were last read.
        printed: how much of what was announced has been shown.
        adopted: what each tracker was told of its run.
        seen: state of each offset's file when it was read.
        threads: of this process, which serve destinations as a last resort.
        since: when it was followed last, on the clock of `time.monotonic`.
        is_over: whether the training has ended, and nobody waits.
        is_left: whether the courier's process was told to leave it to this one.
        is_unserved: whether this process serves it and has no thread for it.
    """

    journal: Journal
    rules: Mapping[str, Mapping[str, Any]]
    destinations: dict[str, Destination] = field(default_factory=dict)
    offsets: dict[str, Offset] = field(default_factory=dict)
    printed: dict[str, int] = field(default_factory=dict)
    adopted: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    threads: dict[str, Follower] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    is_over: bool = False
    is_left: bool = False
    is_unserved: bool = False

    def read(self, name: str) -> Offset:
        """The offset of a destination as it is now: a thread's own, or that in the file."""
        thread = self.threads.get(name)
        offset = thread.offsets.get(name) if thread is not None else None
        path = offset_path(self.journal.path, name)
        if offset is None:
            try:
                stat = path.stat()
                sign = (stat.st_mtime_ns, stat.st_ino)
                if self.seen.get(name) == sign:
                    return self.offsets[name]
                offset = Offset.load(path)
                self.seen[name] = sign
            except (OSError, ValueError):
                return self.offsets.get(name) or Offset(path)
        self.offsets[name] = offset
        return offset

    def is_down(self, name: str) -> bool:
        """Whether a destination does not answer, or was never heard of for long."""
        if name in self.offsets:
            return self.offsets[name].down_since is not None
        return time.monotonic() - self.since > SILENT_S

    def is_answering(self, name: str) -> bool:
        """Whether it is worth while to wait for a destination."""
        return not self.is_unserved and not self.is_down(name)

    def without_thread(self) -> list[Destination]:
        """The destinations that no thread of this process serves."""
        return [destination for name, destination in self.destinations.items() if name not in self.threads]

    def left(self) -> list[str]:
        """The destinations that have not everything."""
        return [name for name in self.destinations if not self.is_done(name)]

    def is_done(self, name: str) -> bool:
        """Whether it has everything."""
        offset = self.offsets.get(name)
        return offset is not None and offset.closed and offset.position >= self.journal.size
