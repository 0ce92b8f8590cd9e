"""What the trainer's process knows of a journal's destinations, from their offsets, and its wait at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rldk_tracking.charts.announce import announce
from rldk_tracking.journal.courier import Follower
from rldk_tracking.journal.journal import Journal
from rldk_tracking.journal.offset import Destination, Offset, offset_path

SILENT_S = 60.0
"""A destination whose offset has not appeared after so long is taken for one that is down."""
UNANSWERED_S = 3.0
"""At the end, a destination that does not answer gets so much."""
_PAUSE_S = 0.05


@dataclass
class Delivery:
    """A journal, and what is known of its destinations.

    Attributes:
        journal, rules: as for `CourierProcess.follow`.
        destinations: by id.
        offsets: as they were last read.
        printed: how much of what was announced has been shown.
        adopted: what each tracker knows of its run by now.
        threads: of this process, which serve destinations as a last resort.
        since: when it was followed last, on the clock of `time.monotonic`.
        is_over: whether the training has ended, and nobody waits.
        is_handed_over: whether the courier's process was told to leave it to this one.
        is_unserved: whether this process serves it and has no thread for it.
        errors, down: calls that failed so far, and destinations that do not answer, as of the last look.
    """

    journal: Journal
    rules: Mapping[str, Mapping[str, Any]]
    destinations: dict[str, Destination] = field(default_factory=dict)
    offsets: dict[str, Offset] = field(default_factory=dict)
    printed: dict[str, int] = field(default_factory=dict)
    adopted: dict[str, dict[str, str]] = field(default_factory=dict)
    threads: dict[str, Follower] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    is_over: bool = False
    is_handed_over: bool = False
    is_unserved: bool = False
    errors: int = 0
    down: int = 0

    def read(self, name: str) -> Offset:
        """The offset of a destination as it is now: a thread's own, or that in the file."""
        thread = self.threads.get(name)
        offset = thread.offsets.get(name) if thread is not None else None
        if offset is None:
            path = offset_path(self.journal.path, name)
            try:
                if not path.exists():
                    return self.offsets.get(name) or Offset(path)
                offset = Offset.load(path)
            except (OSError, ValueError):  # which changes nothing
                return self.offsets.get(name) or Offset(path)
        self.offsets[name] = offset
        return offset

    def is_down(self, name: str) -> bool:
        """Whether a destination does not answer, or was never heard of for long."""
        if name in self.offsets:
            return self.offsets[name].down_since is not None
        return time.monotonic() - self.since > SILENT_S

    def count(self) -> None:
        """Have `errors` and `down` as they are now."""
        self.errors = sum(offset.errors for offset in self.offsets.values())
        self.down = sum(self.is_down(name) for name in self.destinations)

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


def wait_for(journals: Sequence[Delivery], look: Callable[[], None], timeout_s: float) -> list[Delivery]:
    """Wait until journals, which have their end records, are delivered.

    Args:
        journals: all that are waited for.
        look: brings what is known of them up to date.
        timeout_s: for all together. Where none answers it is 3 s.

    Returns:
        Those that are not delivered.
    """
    start = time.monotonic()
    while True:
        look()
        waited = time.monotonic() - start
        unfinished = [delivery for delivery in journals if delivery.left()]
        answers = any(delivery.is_answering(name) for delivery in unfinished for name in delivery.left())
        if not unfinished or waited > timeout_s or (not answers and waited > UNANSWERED_S):
            return unfinished
        time.sleep(_PAUSE_S)


def say_what_is_left(delivery: Delivery) -> None:
    """Tell the person at the terminal where the rest of a journal is, and how much of it is lost."""
    journal, left = delivery.journal, delivery.left()
    journal.write_what_is_kept()
    text = f"not all of this run has reached {', '.join(left)}; the rest lies in {journal.path}"
    if journal.memory is not None and journal.lost:
        behind = max(journal.memory.behind(delivery.read(name).position) for name in left)
        text += f", but {min(behind, journal.lost)} records that could not be written there are lost with this process"
    if journal.deleted:
        text += f"; {journal.deleted} records were in a file that was deleted, and only the courier may still send them"
    announce(text)
