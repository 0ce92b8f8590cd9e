"""The tiny model and its tokenizer."""

from __future__ import annotations

import pytest
import torch

from rldk_tracking.demo.model import EOS, LONGEST_COMPLETION, PAD, VOCABULARY, tiny_model, tiny_tokenizer
from rldk_tracking.demo.task import prompts


def test_the_tokenizer_gives_a_token_a_character_and_back() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("77:012")["input_ids"]
    assert [VOCABULARY[token] for token in ids] == list("77:012")
    assert tokenizer.decode(ids) == "77:012"
    assert (
        tokenizer.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True) == "77:012"
    )
    assert (tokenizer.pad_token, tokenizer.eos_token) == (PAD, EOS)
    padded = tokenizer(["7:", "777:"], padding=True)["input_ids"]
    assert padded[0][:2] == [tokenizer.pad_token_id] * 2


def test_the_same_seed_gives_the_same_model_and_another_another() -> None:
    first, again, other = (tiny_model(seed, warm_steps=2) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(tiny_model(0, warm_steps=2).parameters()).any()


def test_making_one_leaves_the_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny_model(7, warm_steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_it_is_small_and_the_vocabulary_may_be_larger() -> None:
    assert sum(weight.numel() for weight in tiny_model(warm_steps=0).parameters()) < 30_000
    assert tiny_model(warm_steps=0, vocab_size=1000).config.vocab_size == 1000


@pytest.mark.slow
def test_it_ends_most_completions_and_is_right_now_and_then() -> None:
    tokenizer = tiny_tokenizer()
    asked = prompts(200, seed=3)
    inputs = tokenizer(asked, padding=True, return_tensors="pt")
    torch.manual_seed(0)
    made = tiny_model().generate(**inputs, do_sample=True, max_new_tokens=LONGEST_COMPLETION)
    texts = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :])
    assert sum(EOS in text for text in texts) > 180
    hits = [text.count(prompt[0]) / max(1, len(text.split(EOS)[0])) for prompt, text in zip(asked, texts, strict=True)]
    assert 0.25 < sum(hits) / len(hits) < 0.65
