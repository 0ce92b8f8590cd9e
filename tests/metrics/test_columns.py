from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.columns import highest, masked_sum, precise, where_masked


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_sums_and_maxima_ignore_what_is_masked(data: st.DataObject, a_rollout: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    rows = tokens_of(rollout.logprobs, rollout.mask)
    assert masked_sum(rollout.logprobs, rollout.mask).tolist() == pytest.approx([math.fsum(row) for row in rows])
    found = highest(where_masked(rollout.logprobs, rollout.mask, -math.inf)).tolist()
    assert found == [max(row, default=-math.inf) for row in rows]


def test_double_precision_where_the_device_has_it() -> None:
    assert precise(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float64
    assert precise(torch.ones(1, dtype=torch.bool)).dtype == torch.float64
