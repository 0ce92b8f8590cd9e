from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from rldk_tracking.sources.optimizer import OptimizerSource
from rldk_tracking.sources.torch_optimizer import PARTITIONS, is_partitioned, named_parameters, unwrap, what_is_missing


def sgd(*rates: float | torch.Tensor) -> torch.optim.SGD:
    """One group of two parameters for each rate."""
    groups = [{"params": [nn.Parameter(torch.ones(2)) for _ in range(2)], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=9.0)


def test_the_innermost_optimizer_of_several_wrappers() -> None:
    inner = sgd(0.1)
    assert unwrap(inner) is inner
    assert unwrap(SimpleNamespace(optimizer=SimpleNamespace(optimizer=inner))) is inner
    outer = sgd(0.2)
    outer.optimizer = inner  # type: ignore[attr-defined]
    assert unwrap(outer) is inner, "what is an optimizer itself may wrap another one"


def test_a_wrapper_of_something_unknown_is_taken_for_the_optimizer() -> None:
    outer = sgd(0.1)
    outer.optimizer = object()  # type: ignore[attr-defined]
    assert unwrap(outer) is outer
    assert unwrap(object()) is None
    assert unwrap(None) is None


def test_parameters_have_the_models_names_in_the_optimizers_order() -> None:
    model, other = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    groups = [{"params": [model.bias]}, {"params": [other, model.weight]}]
    named, unknown = named_parameters(torch.optim.SGD(groups, lr=0.1), model)
    assert [name for name, _ in named] == ["bias", "group1.0", "weight"]
    assert [id(parameter) for _, parameter in named] == [id(model.bias), id(other), id(model.weight)]
    assert unknown == 1


def test_without_a_model_no_parameter_has_a_name() -> None:
    named, unknown = named_parameters(sgd(0.1, 0.2), None)
    assert [name for name, _ in named] == ["group0.0", "group0.1", "group1.0", "group1.1"]
    assert unknown == 4


def test_what_an_optimizer_does_not_tell() -> None:
    weights = {dtype: nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float16, torch.bfloat16)}
    assert what_is_missing(sgd(0.1)) == []
    assert what_is_missing(torch.optim.AdamW([weights[torch.bfloat16]])) == []
    (sentence,) = what_is_missing(torch.optim.Adam(weights.values()))
    assert sentence.startswith("Adam's moments in torch.float16 lose small gradients: rldk/update/adam_rms")
    assert what_is_missing(torch.optim.SGD(weights.values())) == [], "which has no such direction"


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
