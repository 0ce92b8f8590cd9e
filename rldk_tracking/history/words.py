"""Columns of a past log whose name is nobody's: told by its words.

A name is split into words, whatever stands between them, and every word must be known: `kl_avg`, `Avg KL` and
`train/meanKl` are words for a mean KL, `kl_coef` and `kl_max` are not. A quantity has words that must be there and
words that may be, and any name may say that it is a mean, of training, of a batch or of an epoch. A name with `eval`,
`val` or `test` is an evaluation's. Numbers decide too: below 0 nothing is an entropy, beyond 1 nothing is a share.

Left out, since the name does not tell what it is: a KL or an entropy of a sequence (a sum, or a mean of means), a
penalty or loss of KL (weighted or not), an entropy's loss, tokens that are no mean (a batch's, perhaps), a smoothed
value, percent, an accuracy where there is neither a reward nor pairs.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rldk_tracking.history.handwritten import plain
from rldk_tracking.sources.logs import distils, number

_SPELLINGS = {
    "mean": "avg average averaged means",
    "train": "training trn",
    "batch": "batches",
    "epoch": "epochs",
    "eval": "evaluation val valid validation test dev",
    "reward": "rewards score scores",
    "kl div": "kld kldiv",
    "div": "divergence",
    "approx kl": "approxkl",
    "approx": "approximate",
    "ref": "reference",
    "entropy": "entropies",
    "length": "lengths len lens",
    "token": "tokens tok toks",
    "completion": "completions",
    "response": "responses resp",
    "generation": "generations generated gen",
    "output": "outputs",
    "loss": "losses",
    "policy": "actor pg",
    "value": "critic vf",
    "grad": "grads gradient gradients",
    "norm": "norms",
    "grad norm": "gradnorm",
    "before": "pre",
    "share": "frac fraction",
    "clip share": "clipfrac clipfraction",
    "truncated": "truncation",
    "accuracy": "acc accuracies",
    "learning rate": "lr",
    "perplexity": "ppl",
}
"""One or two words to other spellings of them."""

_SAME = {spelling: words.split() for words, others in _SPELLINGS.items() for spelling in others.split()}
_ANY = frozenset({"mean", "train", "batch", "epoch", "all"})
ACCURACY = "accuracy"
"""Of pairs, or of the task: the columns beside it decide."""

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("rldk/reward/mean", "reward", "total overall episode rollout raw model rm response completion per_completion "
     "per_response per_sample per_episode"),
    ("rldk/kl/ref_k3", "kl", "div token per_token"),
    ("rldk/kl/ref_k3", "kl ref", "div token per_token policy to from vs"),
    ("rldk/policy/approx_kl", "approx kl", "div policy"),
    ("rldk/policy/entropy", "entropy", "policy token per_token"),
    *(
        ("rldk/length/mean", f"{text} {what}", f"{also} per_{text} per_sample")
        for text in ("completion", "response", "generation", "output")
        for what, also in (("length", "token"), ("token mean", ""))
    ),
    *(("rldk/length/mean", f"token per_{text}", "generation") for text in ("completion", "response", "generation")),
    ("rldk/length/mean", "length mean", ""),
    ("rldk/length/truncated_fraction", "truncated share", "completion response generation output"),
    ("rldk/length/truncated_fraction", "truncated ratio", "completion response generation output"),
    ("rldk/length/truncated_fraction", "truncated rate", "completion response generation output"),
    ("rldk/train/loss", "loss", "total overall step policy ppo grpo rloo dpo orpo kto simpo cpo ipo reinforce"),
    ("rldk/value/loss", "value loss", ""),
    ("rldk/grad/norm", "grad norm", "global total policy unclipped"),
    ("rldk/grad/norm", "grad norm before clip", "global total policy"),
    ("rldk/policy/clip_fraction", "clip share", "policy ppo ratio"),
    ("rldk/policy/clip_fraction", "clip rate", "policy ppo"),
    ("rldk/update/learning_rate", "learning rate", "policy current"),
    ("rldk/preference/accuracy", "reward accuracy", ""),
    ("rldk/preference/accuracy", "preference accuracy", ""),
    (ACCURACY, "accuracy", "answer"),
    ("rldk/eval/perplexity", "perplexity eval", ""),
)  # fmt: skip
"""Key, the words that must be there, and those that may be."""

_EVALUATED = {
    "rldk/reward/mean": "rldk/eval/reward",
    "rldk/train/loss": "rldk/eval/loss",
    ACCURACY: "rldk/eval/accuracy",
}
_RULES = [(key, frozenset(must.split()), _ANY | {*must.split(), *may.split()}) for key, must, may in _COLUMNS]
_KNOWN = sorted({*_SAME, *(word for _, _, words in _RULES for word in words)})

STOCK = frozenset({"loss/policy_avg", "loss/dpo"})
"""Names of TRL's trainers that are words for a quantity, and another number: see `rldk_tracking.sources.logs`."""
_PAIRS = frozenset({"chosen", "rejected", "margin", "margins"})
_SHARES = frozenset(
    {"rldk/length/truncated_fraction", "rldk/policy/clip_fraction", "rldk/eval/accuracy", "rldk/preference/accuracy"}
)
_ANY_SIGN = frozenset({"rldk/reward/mean", "rldk/reward/gold", "rldk/train/loss", "rldk/policy/approx_kl"})
_ANY_SIGN |= {"rldk/eval/reward", "rldk/eval/loss"}

_NOISE = re.compile(
    r"_.*|eval[_/].*|(unnamed.*|index|row|id|seed|rank)?"
    r"|(.*[_/])?(epochs?|(cur|current|global)?_?steps?|iter(ation)?s?|episodes?|times?(tamp)?|runtime|date|flos|seconds|ms|s)"
    r"|.*(_per_second|_tok_s|_tok/s|_seconds|_time)|time_.*|(num|total|n)_.*|.*_(count|total)"
    # What stock trainers log beside the numbers that are read.
    r"|(timing\w*|perf|time|system|memory|gpu|progress|training|count|sampling|logits|objective|actor|critic"
    r"|clip_ratio|completions|prompt_length|response\w*|val|val_core|val_aux)/.*|eps"
)
"""Names that nobody will miss, as `plain` spells them."""


def words_of(name: str) -> list[str]:
    """The words of a name, each in one spelling; a sign that joins nothing is a word.

    >>> words_of("train/avgResponse_token-len"), words_of("Acc (%)"), words_of("kl_per_token")
    (['train', 'mean', 'response', 'token', 'length'], ['accuracy', '%'], ['kl', 'per_token'])
    """
    split = re.findall(r"[^\W_]+|[^\w\s/.:()\[\]-]", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    words = [word for one in split for word in _SAME.get(one, [one])]
    return re.sub(r"\bper (?=\w)", "per_", " ".join(words)).split()


@lru_cache(maxsize=4096)
def key_of(name: str) -> str | None:
    """The key that a name is words for, `ACCURACY` for an accuracy in training; None where a word is not known.

    >>> key_of("kl_avg"), key_of("val/mean score"), key_of("reward_max"), key_of("critic_lr")
    ('rldk/kl/ref_k3', 'rldk/eval/reward', None, None)
    """
    return None if plain(name) in STOCK else _key(frozenset(words_of(name)))


def _key(words: frozenset[str]) -> str | None:
    evaluated = "eval" in words
    if evaluated and "train" in words:
        return None
    for key, must, known in _RULES:
        if must <= words <= known:
            return key
        if evaluated and must <= words <= known | {"eval"}:
            return _EVALUATED.get(key)
    return None


def by_words(
    entries: Sequence[Mapping[str, Any]], names: Collection[str], given: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """The columns that are taken for a key that no other name gives.

    Of several for one key none is taken, unless one says that it is the total or all are the same.

    Args:
        entries: of one run.
        names: the columns with numbers that are nobody's.
        given: keys that known names give.

    Returns:
        Names to keys, and sentences on what could have been taken and was not.
    """
    columns = {name: set(words_of(name)) for name in set[str]().union(*entries)}
    has_pairs = any(one.startswith("rldk/preference/") for one in given) or any(
        _PAIRS & one for one in columns.values()
    )
    doubtful = set()
    if has_pairs or "rldk/train/token_accuracy" in given:
        doubtful.add("rldk/policy/entropy")  # of texts that are given
    if distils(columns):
        doubtful.add("rldk/kl/ref_k3")
    has_policy_loss = any({"policy", "loss"} <= one for one in columns.values())
    found: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: key_of(name) == ACCURACY):  # which looks at what was found before
        key = key_of(name)
        if key == ACCURACY:
            of_task = "rldk/reward/gold" if "rldk/reward/mean" in {*given, *found} else None
            key = "rldk/preference/accuracy" if has_pairs else of_task
        if key is None or key in doubtful or any(one == key or (_is_kl(one) and _is_kl(key)) for one in given):
            continue
        if key == "rldk/eval/loss" and has_policy_loss and plain(name).startswith("val"):
            continue  # of the values, perhaps
        found.setdefault(key, []).append(name)
    taken: dict[str, str] = {}
    notes: list[str] = []
    for key, several in found.items():
        numbers = {name: [number(entry.get(name)) for entry in entries] for name in several}
        totals = [name for name in several if {"total", "overall"} & set(words_of(name))]
        if len(totals) != 1 and any(column != numbers[several[0]] for column in numbers.values()):
            notes.append(f"{' or '.join(several)} for {key}? Neither was taken; say it by --alias {several[0]}={key}")
            continue
        name = totals[0] if len(totals) == 1 else several[0]
        values = [value for value in numbers[name] if value is not None and math.isfinite(value)]
        low, high = (min(values), max(values)) if values else (0.0, 0.0)
        if _is_kl(key) and low < 0.0:
            key = "rldk/kl/ref_k1"  # k3 is never below 0
            if sum(value < 0.0 for value in values) > len(values) / 2:
                notes.append(f"{name} is mostly below 0: not taken for a KL to the reference")
                continue
        elif (low < 0.0 and key not in _ANY_SIGN) or (high > 1.0 and key in _SHARES):
            notes.append(f"{name} reaches {low if low < 0.0 else high:.3g}: not taken for {key}")
            continue
        taken[name] = key
        if len(several) > 1:
            notes.append(f"{name} was taken for {key}, not {', '.join(one for one in several if one != name)}")
    return taken, notes


def _is_kl(key: str) -> bool:
    return key.startswith("rldk/kl/ref")


def unread(names: Collection[str]) -> list[str]:
    """Of columns that no key took, those that somebody may miss."""
    return sorted(name for name in names if _NOISE.fullmatch(plain(name)) is None)


def misspelt_column(name: str) -> str | None:
    """The key that a name is words for once its words are spelt as those that are nearest, None where it is none.

    >>> misspelt_column("avg_rewrad"), misspelt_column("completion_lenght"), misspelt_column("reward_std")
    ('rldk/reward/mean', 'rldk/length/mean', None)
    """
    words = [
        word if word in _KNOWN else next(iter(difflib.get_close_matches(word, _KNOWN, 1, 0.8)), word)
        for word in words_of(name)
    ]
    key = key_of(" ".join(words))
    return None if key == ACCURACY else key
