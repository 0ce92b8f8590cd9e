from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import sampler
from rldk_tracking.rollout import Rollout


def oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float]:
    trainer, engine = tokens_of(rollout.logprobs, rollout.mask), tokens_of(rollout.sampler_logprobs, rollout.mask)
    pairs = [(a, b) for ours, theirs in zip(trainer, engine, strict=True) for a, b in zip(ours, theirs, strict=True)]
    differences = [a - b for a, b in pairs if not math.isnan(b)]
    if not differences:
        return {}
    ratios = [math.exp(d) for d in differences]
    return {
        "rldk/sampler/logp_diff_mean": statistics.fmean(abs(d) for d in differences),
        "rldk/sampler/logp_diff_max": max(abs(d) for d in differences),
        "rldk/sampler/k3": statistics.fmean(math.exp(d) - 1 - d for d in differences),
        "rldk/sampler/ratio_max": max(ratios),
        "rldk/sampler/ess": sum(ratios) ** 2 / (len(ratios) * sum(w * w for w in ratios)),
        "rldk/sampler/fraction_off": sum(abs(d) > math.log(2) for d in differences) / len(differences),
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_plain_loops(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    same(sampler.compute(tabulate(rollout)), oracle(rollout, tokens_of))


def test_k3_is_the_divergence_from_the_sampler(tabulate: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(1, 1, 8, generator=generator).log_softmax(-1).expand(200, 200, 8) for _ in range(2))
    tokens = torch.multinomial(theirs[0, :1].exp(), 40_000, True, generator=generator).reshape(200, 200, 1)
    logprobs, sampler_logprobs = (policy.gather(-1, tokens).squeeze(-1) for policy in (ours, theirs))
    rollout = Rollout(torch.ones(200, 200), logprobs=logprobs, sampler_logprobs=sampler_logprobs)
    divergence = float((theirs[0, 0].exp() * (theirs[0, 0] - ours[0, 0])).sum())
    assert sampler.compute(tabulate(rollout))["rldk/sampler/k3"] == pytest.approx(divergence, rel=0.05)


def test_a_completion_that_the_trainer_cannot_score_is_left_out_whole(tabulate: Any) -> None:
    logprobs = torch.tensor([[math.nan, -9.0], [-1.0, -1.0]])
    found = sampler.compute(
        tabulate(Rollout(torch.ones(2, 2), logprobs=logprobs, sampler_logprobs=torch.full((2, 2), -1.5)))
    )
    assert found["rldk/sampler/logp_diff_max"] == pytest.approx(0.5)
    assert found["rldk/sampler/fraction_off"] == 0.0


def test_nothing_without_a_sampler(tabulate: Any) -> None:
    assert sampler.compute(tabulate(Rollout(torch.ones(1, 1), logprobs=torch.zeros(1, 1)))) == {}


def test_ratios_out_of_range_have_no_key(tabulate: Any) -> None:
    def found(difference: float) -> dict[str, float]:
        trainer = torch.full((2, 2), difference, dtype=torch.float64)
        return sampler.compute(
            tabulate(Rollout(torch.ones(2, 2), logprobs=trainer, sampler_logprobs=torch.zeros(2, 2)))
        )

    assert not {"rldk/sampler/ratio_max", "rldk/sampler/ess"} & set(found(800.0))
    assert found(800.0)["rldk/sampler/logp_diff_max"] == 800.0
    assert "rldk/sampler/ess" not in found(-800.0)
    assert found(-800.0)["rldk/sampler/ratio_max"] == 0.0


def test_completions_without_a_token_have_no_difference(tabulate: Any) -> None:
    logprobs = torch.full((2, 2), -1.0)
    rollout = Rollout(torch.zeros(2, 2), logprobs=logprobs, sampler_logprobs=logprobs)
    assert sampler.compute(tabulate(rollout)) == {}
