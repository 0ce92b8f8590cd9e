"""A batch of completions in the contract's terms, by hand; real trainings are in test_trl_grpo.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rldk_tracking.sources.generation import Generation, align, at_sampling, joined, row_keys, stack_rows

PAD, EOS = 0, 1
IDS = torch.tensor([[5, 6, EOS, PAD], [5, 6, 7, 8], [7, PAD, 8, 9], [EOS, PAD, PAD, PAD]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])


def generation(**fields: Any) -> Generation:
    output = {
        "prompt_ids": torch.tensor([[PAD, 3], [PAD, 3], [3, 4], [3, 4]]),
        "completion_ids": IDS,
        "completion_mask": MASK,
        "advantages": torch.tensor([1.0, -1.0, 0.5, -0.5]),
        **fields.pop("output", {}),
    }
    return Generation(0, output, stop_ids=(EOS, PAD), **fields)


def test_truncated_are_those_whose_last_token_ends_nothing() -> None:
    rollout = generation().rollout(None, None)
    assert rollout.truncated is not None and rollout.truncated.tolist() == [False, True, True, False]
    assert rollout.mask.sum(dim=1).tolist() == [3, 4, 4, 1]


def test_several_tokens_may_end_a_completion() -> None:
    several = Generation(0, generation().output, stop_ids=(EOS, 8, PAD)).truncated
    assert several is not None and several.tolist() == [False, False, True, False]


def test_without_a_tokenizer_nobody_knows_what_is_truncated() -> None:
    assert Generation(0, generation().output).rollout(None, None).truncated is None


def test_completions_taken_out_of_the_loss_keep_their_tokens() -> None:
    """A padding token that was sampled in the middle is one of them."""
    mask = MASK * torch.tensor([[1], [0], [0], [1]])
    masked = generation(output={"completion_mask": mask}, hides_truncated=True)
    logprobs = torch.full((4, 4), -1.0)
    rollout = masked.rollout(logprobs, logprobs)
    assert torch.equal(rollout.mask, MASK.bool())
    assert rollout.truncated is not None and rollout.truncated.tolist() == [False, True, True, False]
    for values in (rollout.logprobs, rollout.entropy):
        assert values is not None and values.isnan().all(dim=1).tolist() == [False, True, True, False]


def test_what_a_tool_wrote_does_not_count() -> None:
    tools = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    rollout = generation(output={"tool_mask": tools}).rollout(None, None)
    assert rollout.mask.sum(dim=1).tolist() == [2, 4, 2, 1]
    # How a completion ends is seen on all of its tokens.
    assert rollout.truncated is not None and rollout.truncated.tolist() == [False, True, True, False]


def test_scores_are_weighted_sums_over_those_that_scored() -> None:
    nan = math.nan
    rewards = {"a": torch.tensor([1.0, nan, nan, 0.0]), "b": torch.tensor([2.0, 4.0, nan, nan])}
    scored = generation(rewards=rewards, weights={"a": 1.0, "b": 0.5}).rollout(None, None)
    assert scored.scores is not None
    assert scored.scores.nan_to_num(-1.0).tolist() == [2.0, 2.0, -1.0, 0.0]
    assert scored.rewards["b"].isnan().tolist() == [False, False, True, True]


def test_without_weights_there_is_no_score() -> None:
    rollout = generation(rewards={"a": torch.ones(4)}).rollout(None, None)
    assert rollout.scores is None and set(rollout.rewards) == {"a"}


def test_groups_are_numbered_over_all_ranks() -> None:
    second_rank = generation(group_ids=torch.tensor([2, 2, 3, 3]), num_generations=2, all_rows=8)
    ids = second_rank.rollout(None, None).group_ids
    assert ids is not None and ids.tolist() == [2, 2, 3, 3] and second_rank.groups == 4
    later = second_rank.rollout(None, None, first_group=4).group_ids
    assert later is not None and later.tolist() == [6, 6, 7, 7]


def test_kept_log_probabilities_win_over_the_losss() -> None:
    kept, from_loss = torch.full((4, 4), -2.0), torch.full((4, 4), -1.0)
    assert torch.equal(generation().rollout(from_loss, None).logprobs, from_loss)  # type: ignore[arg-type]
    rollout = generation(output={"old_per_token_logps": kept}).rollout(from_loss, None)
    assert torch.equal(rollout.logprobs, kept)  # type: ignore[arg-type]


def test_the_penalty_is_the_weighted_divergence_of_the_counted_tokens() -> None:
    policy, reference = torch.full((4, 4), -1.0), torch.full((4, 4), -1.5)
    rollout = generation(old_logprobs=policy, ref_logprobs=reference, kl_penalty=0.1).rollout(None, None)
    assert rollout.non_score_rewards is not None
    assert torch.allclose(rollout.non_score_rewards, torch.tensor([-0.15, -0.2, -0.2, -0.05]))


def test_the_losss_order_is_undone() -> None:
    made = generation()
    shuffle = torch.tensor([2, 0, 3, 1])
    values = torch.arange(16.0).reshape(4, 4)
    keys = [made.keys[shuffle[:2]], made.keys[shuffle[2:]]]
    shuffled = [values[shuffle[:2]], values[shuffle[2:]]]
    found, lacking = at_sampling(made, keys, shuffled, [shuffled[0], None])
    assert found is not None and torch.equal(found, values) and lacking is None
    assert at_sampling(made, [], []) == [None]
    half = at_sampling(made, keys[:1], shuffled[:1])[0]
    assert half is not None and half.isnan().all(dim=1).tolist() == [False, True, False, True]
    shorter = at_sampling(made, keys, [part[:, :3] for part in shuffled])
    assert shorter == [None]


def test_generations_of_one_step_are_joined() -> None:
    short = {name: value[:2, :3] if value.ndim == 2 else value[:2] for name, value in generation().output.items()}
    first = generation(rewards={"a": torch.ones(4), "b": torch.full((4,), 2.0)}, weights={"a": 1.0, "b": 1.0})
    second = Generation(0, short, rewards={"a": torch.tensor([0.0, 0.5])}, weights={"a": 1.0}, stop_ids=(EOS, PAD))
    both = joined([first.rollout(None, None), second.rollout(None, None)])
    assert both.mask.shape == (6, 4) and both.mask[4:].sum().item() == 6
    assert both.scores is not None and both.scores.tolist() == [3.0] * 4 + [0.0, 0.5]
    assert set(both.rewards) == {"a"} and both.logprobs is None


def test_rows_are_found_in_another_order() -> None:
    ids = torch.randint(0, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    values = torch.randn(64, 5)
    shuffle = torch.randperm(64)
    found = align(row_keys(ids[shuffle]), values[shuffle], row_keys(ids))
    assert torch.equal(found, values)


def test_a_row_that_is_not_there_is_nan_and_others_are_not_disturbed() -> None:
    ids = torch.arange(20).reshape(5, 4)
    values = torch.randn(5, 3)
    found = align(row_keys(ids[[4, 0, 2]]), values[[4, 0, 2]], row_keys(ids))
    assert torch.equal(found.isnan().all(dim=1), torch.tensor([False, True, False, True, False]))
    assert torch.equal(found[[0, 2, 4]], values[[0, 2, 4]])


def test_nothing_to_find_in_is_all_nan() -> None:
    assert align(torch.empty(0, dtype=torch.long), torch.empty(0, 3), torch.tensor([7])).isnan().all()


def test_equal_rows_share_a_key_and_others_do_not() -> None:
    ids = torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 3], [1, 2, 4], [0, 0, 0], [0, 0, 1]])
    keys = row_keys(ids).tolist()
    assert keys[0] == keys[2]
    assert len(set(keys)) == 5


def test_keys_of_many_similar_rows_do_not_collide() -> None:
    digits = torch.cartesian_prod(*[torch.arange(10)] * 5)
    assert len(row_keys(digits).unique()) == 100_000


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_keys_do_not_depend_on_the_integer_type(dtype: torch.dtype) -> None:
    ids = torch.randint(0, 30_000, (8, 40))
    assert torch.equal(row_keys(ids.to(dtype)), row_keys(ids))


def test_batches_of_different_length_are_stacked() -> None:
    stacked = stack_rows([torch.ones(2, 3), torch.ones(1, 5)])
    assert stacked is not None and stacked.shape == (3, 5) and stacked.sum() == 11
    flat = stack_rows([torch.ones(2), torch.zeros(3)])
    assert flat is not None and flat.shape == (5,)


def test_what_one_batch_lacks_is_lacking() -> None:
    assert stack_rows([torch.ones(2, 3), None]) is None
    assert stack_rows([]) is None
