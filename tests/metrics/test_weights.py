"""Weight statistics against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rldk_tracking.metrics import weights
from rldk_tracking.metrics.layers import Layout, summarise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(9, 8), torch.nn.Linear(8, 7)).to(dtype)
    layout = Layout.of(model.named_parameters())
    found = weights.read(summarise(weights.measure(list(model.parameters()))[None], layout).tolist(), layout)
    want = math.sqrt(sum(np.square(p.detach().double().numpy()).sum() for p in model.parameters()))
    assert found["rldk/weight/norm"] == pytest.approx(want, rel=1e-5)
    assert found["rldk/nan/weights"] == 0


def test_tensors_that_are_no_numbers_are_counted() -> None:
    good, packed = torch.ones(3), torch.ones(4, dtype=torch.int8)
    bad, worse = torch.tensor([1.0, math.nan]), torch.tensor([math.inf], dtype=torch.bfloat16)
    assert int(weights.not_finite([good, bad, packed, worse])) == 2
    assert int(weights.not_finite([good, packed])) == 0
