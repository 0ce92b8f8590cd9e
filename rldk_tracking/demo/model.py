"""A two-layer language model and a character tokenizer, made on the spot: nothing is downloaded.

The policy is warm-started by supervised steps on mediocre completions, so that it ends its completions, is right
about a third of the time and has much to learn.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from rldk_tracking.demo.task import ASK, DIGITS, demonstrations

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
VOCABULARY = (PAD, EOS, *DIGITS, ASK)
LONGEST_COMPLETION = 10
HIT_RATE = 0.4


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, padding on the left as generation wants it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def tiny_config(vocab_size: int | None = None, hidden_size: int = 32, layers: int = 2) -> object:
    """A Qwen2 configuration of about 20 thousand weights."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=max(vocab_size or 0, len(VOCABULARY)),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        use_cache=True,
        pad_token_id=VOCABULARY.index(PAD),
        eos_token_id=VOCABULARY.index(EOS),
        bos_token_id=None,
    )


def tiny_model(
    seed: int = 0, vocab_size: int | None = None, *, hidden_size: int = 32, warm_steps: int = 150
) -> PreTrainedModel:
    """A fresh policy in float32; the same arguments give the same weights.

    Args:
        seed: of the initial weights and of the warm start.
        vocab_size: at least the tokenizer's size, which is the default; more is never sampled.
        warm_steps: supervised steps before; 0 leaves random weights.
    """
    return copy.deepcopy(_warm_model(seed, vocab_size, hidden_size, warm_steps))


@lru_cache(maxsize=4)
def _warm_model(seed: int, vocab_size: int | None, hidden_size: int, warm_steps: int) -> PreTrainedModel:
    from transformers import Qwen2ForCausalLM

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(tiny_config(vocab_size, hidden_size)).float()
        _warm_start(model, warm_steps, seed)
    return model.eval()


def _warm_start(model: PreTrainedModel, steps: int, seed: int, batch_size: int = 64) -> None:
    """Next-token loss on completions that are right a third of the time and end after about four characters."""
    if steps == 0:
        return
    tokenizer = tiny_tokenizer()
    pairs = demonstrations(steps * batch_size, hit_rate=HIT_RATE, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    model.train()
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        texts = [question + answer + EOS for question, answer in batch]
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        asked = (inputs["input_ids"] == VOCABULARY.index(ASK)).float().argmax(dim=1, keepdim=True)
        labels = labels.masked_fill(torch.arange(labels.shape[1]) <= asked, -100)
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
