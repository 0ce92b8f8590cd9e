"""What one step costs rank 0 and every other rank as the number of ranks grows.

    python tests/benchmarks/ranks.py [--ranks 8 64 256 1024] [--rows 128] [--tokens 512] [--uneven] [--profile]

All ranks are emulated in one process: one rank's vector is packed from a rollout and an update with every field, and
rank 0's buffer is filled as a gather would leave it. Without the network, that is; the bytes that it carries are given.
Times are medians over the repetitions, in milliseconds of processor time: other work on the machine disturbs it least.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from rldk_tracking import ranks as module
from rldk_tracking.metrics import policy, reward
from rldk_tracking.metrics.keys import CATALOGUE
from rldk_tracking.metrics.statistics import Array
from rldk_tracking.metrics.vector import Part, VectorLayout
from rldk_tracking.probes.steps import (
    ROLLOUT_COLUMNS,
    ROLLOUT_GROUPS,
    TAILS,
    UPDATE_COLUMNS,
    rollout_columns,
    rollout_tails,
    row_of,
    update_columns,
)
from rldk_tracking.ranks import Merged, Schema
from rldk_tracking.rollout import PolicyUpdate, Rollout

GROUP_ROWS = 8
PROBE_LENGTH = 120
DIFFERENT = 8
"""Parts that are made; more ranks deliver them once more, with groups of their own."""
SCALARS = [key for key, row in CATALOGUE.items() if row.source in ("logs", "host") and "<" not in key]


def part_of(rows: int, tokens: int, seed: int = 0) -> Part:
    """What one rank delivers: three reward functions, a critic, a sampler, a reference, eight completions a prompt."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    logprobs = -normal(rows, tokens).abs()
    rollout = Rollout(
        mask=mask,
        token_ids=torch.randint(0, 5000, (rows, tokens), generator=generator),
        logprobs=logprobs,
        ref_logprobs=logprobs + 0.1 * normal(rows, tokens),
        sampler_logprobs=logprobs + 0.01 * normal(rows, tokens),
        scores=normal(rows).round(decimals=1),
        rewards={name: normal(rows) for name in ("accuracy", "format", "length")},
        reward_weights={"accuracy": 1.0, "format": 0.5, "length": 0.1},
        non_score_rewards=normal(rows),
        values=normal(rows, tokens),
        returns=normal(rows, tokens),
        advantages=normal(rows, tokens),
        group_ids=torch.arange(rows) // GROUP_ROWS,
        truncated=mask.all(dim=1),
    )
    update = PolicyUpdate(
        mask,
        new_logprobs=logprobs + 0.05 * normal(rows, tokens),
        old_logprobs=logprobs,
        advantages=normal(rows),
        entropy=normal(rows, tokens).abs(),
        clip_low=0.2,
        clip_high=0.2,
    )
    return Part(
        rollout_columns(rollout),
        update_columns(update),
        rollout_tails(rollout),
        dict.fromkeys(SCALARS, 1.0),
        torch.arange(float(PROBE_LENGTH)),
        reward.names(rollout),
    )


def gathered(layout: VectorLayout, parts: Sequence[Part], ranks: int, uneven: bool) -> Array:
    """(ranks, n) of ranks that deliver these parts in turn, with groups of their own."""
    vectors = np.stack([layout.wait(layout.pack(part))[0].numpy() for part in parts])
    vectors = vectors[np.arange(ranks) % len(parts)]
    rows = layout.rollout_rows
    begin = layout._ends[1] + layout.schema.rollout.index("reward/group") * rows
    vectors[:, begin : begin + rows] += np.arange(ranks)[:, None] * rows
    if uneven:
        vectors[:, :2] = np.random.default_rng(0).integers(rows // 2, rows + 1, size=(ranks, 1))
    return vectors


def median_ms(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat + 1):
        begin = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - begin))
    return statistics.median(times[1:])  # the first finds cold memory


def by_module(merged: Merged, repeat: int) -> dict[str, float]:
    """Milliseconds of each group of metrics."""
    works: dict[str, Callable[[], object]] = {
        group.__name__.rsplit(".", 1)[1]: (lambda group=group: group.compute(merged.rollout))
        for group in ROLLOUT_GROUPS
    }
    works["ratio"] = lambda: policy.compute_ratios(merged.update)
    return {name: median_ms(work, repeat) for name, work in works.items()}


def setting(ranks: int, rows: int, tokens: int, uneven: bool) -> tuple[VectorLayout, Part, Array]:
    """A layout, one rank's part, and what rank 0 has received."""
    schema = Schema(ROLLOUT_COLUMNS, UPDATE_COLUMNS, TAILS, tuple(CATALOGUE))
    sent = module.rows_sent(rows, ranks)
    layout = VectorLayout(schema, sent, sent, module.TAIL_VALUES, PROBE_LENGTH)
    parts = [part_of(rows, tokens, seed) for seed in range(min(ranks, DIFFERENT))]
    return layout, parts[0], gathered(layout, parts, ranks, uneven)


def measure(ranks: int, rows: int, tokens: int, repeat: int, uneven: bool) -> dict[str, float]:
    """Milliseconds, and the megabytes that rank 0 receives."""
    layout, part, vectors = setting(ranks, rows, tokens, uneven)

    def unpack() -> Merged:
        return module._merged(layout, vectors, {}, part.names)

    merged = unpack()
    found = {
        "other": median_ms(lambda: layout.wait(layout.pack(part)), repeat),
        "unpack": median_ms(unpack, repeat),
        "row": median_ms(lambda: row_of(merged), repeat),
        "megabytes": vectors.nbytes / 1e6,
    }
    return found | {f"row/{name}": ms for name, ms in by_module(merged, repeat).items()}


def table_of(results: dict[int, dict[str, float]]) -> str:
    """One line for each number, one column for each number of ranks."""
    lines = ["ms".ljust(18) + "".join(f"{ranks:>10}" for ranks in results)]
    by_name: dict[str, list[float]] = defaultdict(list)
    for found in results.values():
        for name, value in found.items():
            by_name[name].append(value)
    titles = {"other": "each other rank", "unpack": "rank 0: unpack", "row": "rank 0: row", "megabytes": "received, MB"}
    for name, values in by_name.items():
        title = titles.get(name, f"  {name.removeprefix('row/')}")
        lines.append(title.ljust(18) + "".join(f"{value:>10.2f}" for value in values))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> dict[int, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 256, 1024])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--uneven", action="store_true", help="ranks with half to all of their rows")
    parser.add_argument("--profile", action="store_true", help="the row's functions by time, at the most ranks")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results = {n: measure(n, chosen.rows, chosen.tokens, chosen.repeat, chosen.uneven) for n in chosen.ranks}
    print(table_of(results))
    if chosen.profile:
        profile(max(chosen.ranks), chosen.rows, chosen.tokens)
    return results


def profile(ranks: int, rows: int, tokens: int) -> None:
    layout, part, vectors = setting(ranks, rows, tokens, uneven=False)
    merged = module._merged(layout, vectors, {}, part.names)
    profiler = cProfile.Profile()
    profiler.runcall(row_of, merged)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
