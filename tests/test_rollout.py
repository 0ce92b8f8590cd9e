from __future__ import annotations

import pytest
import torch

from rldk_tracking.rollout import PolicyUpdate, Rollout

MASK = torch.ones(2, 3, dtype=torch.bool)


def test_only_the_mask_is_needed() -> None:
    assert Rollout(mask=MASK).present() == ("mask",)


@pytest.mark.parametrize(
    ("field", "shape"),
    [("logprobs", (2, 4)), ("scores", (3,)), ("values", (2,)), ("advantages", (3, 3)), ("group_ids", (2, 3))],
)
def test_a_wrong_shape_names_the_field_and_both_shapes(field: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"Rollout\.{field} has shape .*but the mask asks for"):
        Rollout(mask=MASK, **{field: torch.zeros(shape)})


def test_a_reward_of_wrong_length_names_the_function() -> None:
    with pytest.raises(ValueError, match=r"rewards\['accuracy'\]"):
        Rollout(mask=MASK, rewards={"accuracy": torch.zeros(3)})


def test_advantages_may_be_given_per_completion_or_per_token() -> None:
    assert "advantages" in Rollout(mask=MASK, advantages=torch.zeros(2)).present()
    assert "advantages" in Rollout(mask=MASK, advantages=torch.zeros(2, 3)).present()


def test_what_is_no_tensor_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="mask must be a"):
        Rollout(mask=[[1, 1]])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Rollout\.scores must be a tensor, got list"):
        Rollout(mask=MASK, scores=[1.0, 2.0])  # type: ignore[arg-type]


def test_texts_are_one_a_row() -> None:
    with pytest.raises(ValueError, match="one text for each of the 2 rows"):
        Rollout(mask=MASK, completions=("a",))


def test_an_update_is_checked_too() -> None:
    with pytest.raises(ValueError, match="old_logprobs"):
        PolicyUpdate(mask=MASK, new_logprobs=torch.zeros(2, 3), old_logprobs=torch.zeros(2, 2))
