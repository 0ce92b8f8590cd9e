"""A process group of our own, made only where every rank of the job takes part in making it.

Making a group is a collective: a rank that never calls it lets the others wait until the job's time limit. So the ranks
first meet in the store of the default group, for a limited time, and come to one decision, the same on every rank.
They meet once more when each has tried to connect, since on one host it may fail.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import PrefixStore, Store

CONNECT_S = 60.0
"""Time limit for connecting the ranks of a group; for what follows it has the default group's."""
GRACE_S = 5.0
"""By how much longer than the first rank the others wait, so that one rank decides and not all at once."""
POLL_S = 0.25
"""Longest pause between two looks at the store."""

_MEETINGS = itertools.count()
_GROUPS: list[tuple[weakref.ref[Membership], dist.ProcessGroup]] = []
"""This process's groups. One goes when the ranks meet again and its owner is gone: earlier, others may still use it."""


@dataclass(frozen=True)
class Membership:
    """What the ranks of a job decided.

    Attributes:
        rank, job_size: of this process, and of the job.
        said: by rank, what those said that came in time.
        obstacle: why there is no group; empty where there is one.
        group: of all ranks of the job, on the host's memory where PyTorch has gloo.

    >>> Membership(rank=0, job_size=3, said={0: {}, 2: {}}).missing
    [1]
    """

    rank: int = 0
    job_size: int = 1
    said: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    obstacle: str = ""
    group: dist.ProcessGroup | None = None

    @property
    def missing(self) -> list[int]:
        """Ranks of the job that did not come."""
        return sorted(set(range(self.job_size)) - set(self.said) - {self.rank})

    @property
    def is_late(self) -> bool:
        """Whether the others decided without this rank."""
        return self.job_size > 1 and self.rank not in self.said

    @property
    def is_lowest(self) -> bool:
        """Whether this is the lowest rank that came."""
        return self.job_size == 1 or self.rank == min(self.said, default=0)


def world_size() -> int:
    """Ranks of the job; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join(said: Mapping[str, Any], wait_s: float) -> Membership:
    """Meet the other ranks and make a group with them. Waits at most `wait_s` for one that does not come.

    The n-th call of a process meets the n-th calls of the others.

    Args:
        said: what the others are told, as JSON. They go together only where "schema" is the same.
        wait_s: how long the first rank waits for the last.
    """
    if world_size() == 1:
        return Membership()
    from torch.distributed import distributed_c10d as c10d  # which a PyTorch without distribution does not have

    rank, size = dist.get_rank(), dist.get_world_size()
    store = c10d.PrefixStore(f"rldk_tracking/{next(_MEETINGS)}", c10d._get_default_store())
    try:
        return _join(c10d.PrefixStore("came", store), c10d.PrefixStore("connected", store), rank, size, said, wait_s)
    except RuntimeError as error:
        return Membership(rank, size, {}, f"The job's store failed: {error}.")


def _join(
    came: PrefixStore, connected: PrefixStore, rank: int, size: int, about: Mapping[str, Any], wait_s: float
) -> Membership:
    said = meet(came, rank, size, about, wait_s)
    obstacle = _obstacle(Membership(rank, size, said), wait_s)
    if obstacle:
        return Membership(rank, size, said, obstacle)
    _destroy_unused()
    group, failure = None, ""
    try:
        group = _connect()
    except (RuntimeError, ValueError) as error:
        failure = str(error) or type(error).__name__
    failures = meet(connected, rank, size, failure, 2 * CONNECT_S)
    faults = {other: failures.get(other, "it took too long") for other in range(size)}
    failed = [other for other, fault in faults.items() if fault]
    if failed or group is None:
        destroy(group)
        return Membership(rank, size, said, f"{_listed(failed)} could not be connected: {faults[failed[0]]}.")
    membership = Membership(rank, size, said, group=group)
    _GROUPS.append((weakref.ref(membership), group))
    return membership


def meet(store: Store, rank: int, size: int, said: Any, wait_s: float) -> dict[int, Any]:
    """What each rank said that came in time; the same on every rank, also on one that is late and not among them.

    The last rank to come writes down who came, or else the first to lose patience. The store takes the first writing
    only, and every rank goes by what stands there.
    """
    store.set(f"rank/{rank}", json.dumps(said))
    order = store.add("count", 1)
    end, pause = time.monotonic() + wait_s + (GRACE_S if order > 1 else 0.0), POLL_S / 64
    while order < size and not store.check(["answer"]) and time.monotonic() < end:
        time.sleep(pause)
        pause = min(2 * pause, POLL_S)
    if not store.check(["answer"]):
        there = [other for other in range(size) if store.check([f"rank/{other}"])]
        store.compare_set("answer", "", json.dumps({other: json.loads(store.get(f"rank/{other}")) for other in there}))
    return {int(other): said for other, said in json.loads(store.get("answer")).items()}


def destroy(group: dist.ProcessGroup | None) -> None:
    """Give a group up; no collective. The connections are closed when the last reference to it goes."""
    if group is None:
        return
    _GROUPS[:] = [entry for entry in _GROUPS if entry[1] is not group]
    with contextlib.suppress(ValueError, RuntimeError):  # the job's end has destroyed it already
        dist.destroy_process_group(group)


def _obstacle(membership: Membership, wait_s: float) -> str:
    """Why the ranks cannot go together; empty where they can."""
    said, size = membership.said, membership.job_size
    if membership.is_late:
        return f"Rank {membership.rank} came when the others had waited for more than {wait_s:g} s."
    if membership.missing:
        return (
            f"{_listed(membership.missing)} of {size} did not come within {wait_s:g} s, as without the callback. "
            "Give every rank the callback: callbacks=[RLDKCallback()] without an `if`."
        )
    first = said[0]
    others = [rank for rank in said if said[rank]["schema"] != first["schema"]]
    if others:
        return (
            f"{_listed(others)} of {size} has other series than rank 0, as of another version of rldk_tracking. "
            "Install the same version for every rank."
        )
    return ""


def _connect() -> dist.ProcessGroup:
    """A group of all ranks: a collective.

    Raises:
        RuntimeError, ValueError: of PyTorch.
    """
    limit = _time_limit()
    if not dist.is_gloo_available():
        group: dist.ProcessGroup = dist.new_group(timeout=limit)
        return group
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=CONNECT_S))
    for backend in _backends(group):
        backend._set_default_timeout(limit)
    return group


def _time_limit() -> timedelta:
    """The default group's."""
    from torch.distributed import distributed_c10d as c10d

    limits = [
        backend.options._timeout for backend in _backends(c10d._get_default_group()) if hasattr(backend, "options")
    ]
    return max(limits, default=c10d.default_pg_timeout)


def _backends(group: dist.ProcessGroup) -> list[Any]:
    """The group's backends, taken out of what wraps them while distributed programs are debugged."""
    backends = [group._get_backend(device) for device in group._device_types]
    return [getattr(backend, "wrapped_pg", backend) for backend in backends]


def _destroy_unused() -> None:
    for owner, group in list(_GROUPS):
        if owner() is None:
            destroy(group)


def _listed(ranks: Sequence[int]) -> str:
    """ "Rank 3", "Ranks 0, 2 and 3", of many the first and their number."""
    if len(ranks) == 1:
        return f"Rank {ranks[0]}"
    if len(ranks) > 8:
        return f"Ranks {', '.join(map(str, ranks[:8]))} and {len(ranks) - 8} others"
    return f"Ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
