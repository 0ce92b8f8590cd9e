from __future__ import annotations

import time
from typing import Any

from rldk_tracking.sources.waiting import Waiting


class Accelerator:
    """As accelerate's: one of the two calls the other."""

    def gather(self, tensor: Any) -> Any:
        time.sleep(0.05)
        return tensor

    def gather_for_metrics(self, tensor: Any) -> Any:
        return self.gather(tensor)


def test_time_in_exchanges_is_counted_once() -> None:
    accelerator = Accelerator()
    waiting = Waiting(accelerator)
    assert accelerator.gather(3) == 3
    assert accelerator.gather_for_metrics(4) == 4
    time.sleep(0.05)
    assert 0.1 <= waiting.take() < 0.145
    assert waiting.take() == 0.0
    waiting.detach()
    assert vars(accelerator) == {}
    accelerator.gather(1)
    assert waiting.take() == 0.0


def test_an_accelerator_without_gathers_is_left_alone() -> None:
    waiting = Waiting(object())
    assert waiting.take() == 0.0
    waiting.detach()
