"""What watching the optimizer costs: `python tests/benchmarks/optimizer_probe.py [--words 50257] [--steps 20]`.

A GPT-2 of 124 million parameters makes forward, backward and AdamW steps; beside each step the clipping of the
gradients and the probe's hooks with the reading of their numbers are timed. Shares are of medians over the steps; the
probe's is the mean, because the level "standard" measures updates in every tenth step only.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rldk_tracking.sources.optimizer import LEVELS, OptimizerSource

GOALS = (0.01, 2.0)
"""Largest share of the step, and of one clip_grad_norm_, at the level "standard"."""


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until it is done, on the device too."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> int:
    """Print a table; the exit code is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=50257)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8, help="sequences in a step")
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = GPT2Config(
        vocab_size=arguments.words, n_embd=arguments.width, n_layer=arguments.layers, n_head=arguments.width // 64
    )
    model = GPT2LMHeadModel(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    tokens = torch.randint(0, arguments.words, (arguments.rows, arguments.tokens), device=device)
    probes = {level: OptimizerSource(optimizer, model, level) for level in LEVELS}
    for probe in probes.values():
        probe.detach()
    seconds: dict[str, list[float]] = {"step": [], "clip": [], **{level: [] for level in LEVELS}}
    for step in range(arguments.steps + 1):
        optimizer.zero_grad()

        def learn() -> None:
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()

        measured = {"step": timed(learn, device)}
        for level, probe in probes.items():

            def watch(probe: OptimizerSource = probe) -> None:
                probe._before_step(optimizer, (), {})
                probe._after_step(optimizer, (), {})
                probe.read(probe.pending().tolist())

            measured[level] = timed(watch, device)
        measured["clip"] = timed(lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0), device)
        for name, value in measured.items() if step else ():  # the first step allocates
            seconds[name].append(value)
    count = sum(p.numel() for p in model.parameters())
    whole, clip = statistics.median(seconds["step"]), statistics.median(seconds["clip"])
    print(f"{count / 1e6:.0f} million parameters on {device}, {arguments.rows} x {arguments.tokens} tokens a step")
    print("| what | ms, mean | ms, median | ms, largest | share of the step | x clip_grad_norm_ |")
    print("|---|---|---|---|---|---|")
    for name, values in seconds.items():
        mean, largest = statistics.fmean(values), max(values)
        print(
            f"| {name} | {1e3 * mean:.1f} | {1e3 * statistics.median(values):.1f} | {1e3 * largest:.1f} "
            f"| {mean / whole:.2%} | {mean / clip:.2f} |"
        )
    standard = statistics.fmean(seconds["standard"])
    return int(standard / whole > GOALS[0] or standard / clip > GOALS[1])


if __name__ == "__main__":
    sys.exit(main())
