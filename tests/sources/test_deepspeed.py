"""Objects of the shape of DeepSpeed's; the real thing needs its kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from rldk_tracking.sources.deepspeed import PARTITIONS, is_partitioned
from rldk_tracking.sources.optimizer import OptimizerSource


class ZeroOptimizer:
    """As `DeepSpeedZeroOptimizer`: no torch optimizer, with one inside that has this rank's part of a flat tensor."""

    def __init__(self, model: torch.nn.Module, attribute: str) -> None:
        flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        self.part = torch.nn.Parameter(flat[: len(flat) // 2].clone())
        self.optimizer = torch.optim.AdamW([self.part], lr=1e-3)
        setattr(self, attribute, [self.part])

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self) -> None:
        self.part.grad = torch.ones_like(self.part)
        self.optimizer.step()


@pytest.mark.parametrize("attribute", PARTITIONS)
def test_what_cannot_be_read_is_said_once_and_left_out(attribute: str, caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.Linear(4, 4)
    zero = ZeroOptimizer(model, attribute)
    wrapped = AcceleratedOptimizer.__new__(AcceleratedOptimizer)
    wrapped.optimizer = zero
    assert is_partitioned(zero) and is_partitioned(wrapped)
    probe = OptimizerSource(wrapped, model, "full")
    for _ in range(2):
        zero.step()
        assert probe.read(probe.pending().tolist()) == {}
    assert not zero.optimizer._optimizer_step_pre_hooks
    assert caplog.text.count("DeepSpeed has flattened") == 1
    assert int(probe.check_weights()) == 0
    model.weight.data[0, 0] = float("nan")
    assert int(probe.check_weights()) == 1  # the model's own weights can be read
    probe.detach()


def test_other_optimizers_are_not_taken_for_it() -> None:
    plain = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    assert not is_partitioned(plain)
    assert not is_partitioned(None)
    plain.optimizer = plain  # type: ignore[attr-defined]
    assert not is_partitioned(plain)
