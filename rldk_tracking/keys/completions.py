"""Series of the completions themselves: length and diversity."""

from __future__ import annotations

from rldk_tracking.keys.key import LINEAR, SAMPLE_STD, TOKENS, Key

KEYS = (
    Key(
        "rldk/length/mean",
        TOKENS,
        "Tokens of a completion that the model wrote: without those of tools.",
        "mean over completions",
        "rollout",
    ),
    Key("rldk/length/std", TOKENS, "Spread of the length.", f"{SAMPLE_STD} over completions", "rollout"),
    Key("rldk/length/min", TOKENS, "Shortest completion.", "minimum", "rollout", reduce="min"),
    Key("rldk/length/max", TOKENS, "Longest completion.", "maximum", "rollout", reduce="max"),
    Key("rldk/length/p95", TOKENS, "One completion in twenty is longer.", f"95th percentile, {LINEAR}", "rollout"),
    Key(
        "rldk/length/truncated_fraction",
        "1",
        "Share that the length limit cut off.",
        "truncated completions / completions",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/length/eos_fraction",
        "1",
        "Share that ended by itself.",
        "1 - truncated_fraction",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/length/terminated_mean",
        TOKENS,
        "Length of the completions that ended by themselves; absent where none did.",
        "mean over completions that were not truncated",
        "rollout",
    ),
    Key(
        "rldk/diversity/unique_fraction",
        "1",
        "1 where no completion occurs twice.",
        "distinct completions / completions; empty ones are completions, all the same one",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/diversity/distinct_1",
        "1",
        "Variety of tokens within a completion (Li et al. 2016).",
        "mean over completions with tokens (a subsample of a large batch) of distinct tokens / tokens",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/diversity/distinct_2",
        "1",
        "Variety of pairs of tokens within a completion.",
        "mean over completions of two tokens or more (a subsample of a large batch) of distinct bigrams / bigrams",
        "rollout",
        "higher",
    ),
    Key(
        "rldk/diversity/within_group_overlap",
        "1",
        "How alike the answers to one prompt are; 1 where they use the same bigrams.",
        "mean over groups (a subsample of a large batch) and pairs in them of |A and B| / |A or B| of bigram sets, "
        "estimated from 16 min-hashes; without completions of fewer than two tokens",
        "rollout",
        "lower",
    ),
    Key(
        "rldk/diversity/repetition",
        "1",
        "How much completions repeat themselves; near 1 one phrase over and over.",
        "mean over completions with tokens (a subsample of a large batch) of the longest n-gram that occurs twice / "
        "tokens",
        "rollout",
        "lower",
    ),
)
