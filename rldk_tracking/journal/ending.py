"""The end of trainings: what their destinations have not taken is waited for, of all at once, and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rldk_tracking.charts.announce import announce
from rldk_tracking.journal.followed import Followed

UNANSWERED_S = 3.0
"""A destination that does not answer gets so much."""
_PAUSE_S = 0.05


def wait_for(journals: Sequence[Followed], look: Callable[[], None], timeout_s: float) -> list[Followed]:
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
        unfinished = [followed for followed in journals if followed.left()]
        answers = any(followed.is_answering(name) for followed in unfinished for name in followed.left())
        if not unfinished or waited > timeout_s or (not answers and waited > UNANSWERED_S):
            return unfinished
        time.sleep(_PAUSE_S)


def say_what_is_left(followed: Followed) -> None:
    """Tell the person at the terminal where the rest of a journal is, and how much of it is lost."""
    journal, left = followed.journal, followed.left()
    journal.write_what_is_kept()
    text = f"not all of this run has reached {', '.join(left)}; the rest lies in {journal.path}"
    if journal.memory is not None and journal.lost:
        behind = max(journal.memory.behind(followed.read(name).position) for name in left)
        text += f", but {min(behind, journal.lost)} records that could not be written there are lost with this process"
    if journal.deleted:
        text += f"; {journal.deleted} records were in a file that was deleted, and only the courier may still send them"
    announce(text)
