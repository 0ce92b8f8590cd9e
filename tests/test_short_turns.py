from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch

from rldk_tracking.background import Background
from rldk_tracking.shield import Shield
from rldk_tracking.short_turns import SECONDS, short_turns
from rldk_tracking.trackers.base import Row, RunInfo
from rldk_tracking.trackers.delivery import Delivery
from rldk_tracking.trackers.memory import InMemoryTracker


@pytest.fixture(autouse=True)
def usual() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield sys.getswitchinterval()
    sys.setswitchinterval(before)


def test_turns_are_short_within_and_as_before_afterwards(usual: float) -> None:
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(SECONDS)
    assert sys.getswitchinterval() == usual
    with pytest.raises(ZeroDivisionError), short_turns():
        raise ZeroDivisionError
    assert sys.getswitchinterval() == usual


def test_the_last_of_several_threads_restores_it(usual: float) -> None:
    first, second = short_turns(), short_turns()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(SECONDS)
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == usual


def test_what_somebody_else_chooses_meanwhile_stays() -> None:
    with short_turns():
        sys.setswitchinterval(0.02)
    assert sys.getswitchinterval() == pytest.approx(0.02)


def test_a_shorter_interval_of_the_users_stays() -> None:
    sys.setswitchinterval(2e-5)
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(2e-5)
    assert sys.getswitchinterval() == pytest.approx(2e-5)


def test_work_beside_the_training_is_done_in_short_turns(usual: float) -> None:
    background, seen = Background(Shield()), []
    background.submit(lambda: seen.append(sys.getswitchinterval()))
    background.close()

    class Backend(InMemoryTracker):
        threaded = True

        def log_rows(self, rows: Sequence[Row]) -> None:
            seen.append(sys.getswitchinterval())

    delivery = Delivery(Backend())
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/kl/mean": 0.1}, 1)
    delivery.close()
    assert seen == [pytest.approx(SECONDS)] * 2
    assert sys.getswitchinterval() == usual


def slowest_tenth(turns: AbstractContextManager[None]) -> float:
    """Seconds that some small torch operations take beside a thread that computes."""
    tensors, over = [torch.ones(8, 8) for _ in range(10)], threading.Event()
    row = {f"rldk/key/{number}": 0.1 * number for number in range(100)}

    def compute() -> None:
        with turns:
            while not over.is_set():
                json.loads(json.dumps(row))

    beside, took = threading.Thread(target=compute), []
    beside.start()
    for _ in range(15):
        before = time.perf_counter()
        torch.stack([(tensor * 2).sum() for tensor in tensors])
        took.append(time.perf_counter() - before)
        time.sleep(0.002)
    over.set()
    beside.join()
    return sorted(took)[13]


def test_the_trainings_operations_hardly_wait() -> None:
    assert slowest_tenth(short_turns()) < 0.5 * slowest_tenth(nullcontext())
