from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from rldk_tracking.sources.torch_optimizer import named_parameters, unwrap, what_is_missing


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
