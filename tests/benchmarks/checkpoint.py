"""What reading a checkpoint costs: `python tests/benchmarks/checkpoint.py [--sizes 124M 1B] [--rounds 5]`.

Two consecutive checkpoints of random weights are written, then measured side by side, each way in a process of its own
with one thread. Ratios are those of neighbouring processes, and of them the median over the rounds, so that what else
the machine does falls on both sides; seconds are medians too:

(a) sum: every byte of both is read and summed once through torch;
(b) plain: the same statistics by torch, tensor by tensor;
(ours) scan: `rldk_tracking.checkpoint.scan` at the level "standard", the second checkpoint against the first.

The CPU's seconds say what it would be on a machine that nobody else uses. Memory is the process's peak resident memory
beyond what it had after its imports. Last comes what the thread that trains waits for at a save: links to the weights,
a look at the memory's contents, and the order to scan, for a model with as many tensors as one of 124 million
parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

GOALS = {"float32": (3.0, 0.15), "bfloat16": (6.0, None)}
"""Largest ratio of ours to (a), and to (b)."""
EXTRA_MIB = 64
ON_SAVE_SECONDS = 5e-3
SHAPES = {"124M": (50257, 768, 12), "1B": (32000, 2048, 18)}
"""Words, width and layers."""

PREAMBLE = """
import json, sys, time
first, second = sys.argv[1:3]
def peak():
    return {l.split(":")[0]: int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(("VmHWM", "VmRSS"))}
def run(work):
    before = peak()["VmRSS"]
    start, cpu = time.perf_counter(), time.process_time()
    work()
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    print(json.dumps({**found, "mib": (peak()["VmHWM"] - before) / 1024}))
"""
WAYS = {
    "sum": """
import torch
from safetensors import safe_open
def work():
    for path in (first, second):
        with safe_open(path + "/model.safetensors", "pt") as file:
            for name in file.keys():
                file.get_tensor(name).sum().item()
""",
    "plain": """
import torch
from safetensors import safe_open
def work():
    with safe_open(first + "/model.safetensors", "pt") as old, safe_open(second + "/model.safetensors", "pt") as new:
        for name in new.keys():
            a, b = new.get_tensor(name).float(), old.get_tensor(name).float()
            for number in (a.norm(), a.mean(), a.std(), a.abs().max(), torch.isnan(a).sum(), torch.isinf(a).sum(),
                           (a == 0).float().mean(), (a - b).norm() / b.norm(),
                           torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)):
                number.item()
""",
    "ours": """
from rldk_tracking.checkpoint.scan import scan
def work():
    scan(second, {"previous": first})
""",
}


def write(folder: Path, size: str, dtype: str) -> tuple[Path, Path]:
    """Two checkpoints, the second a thousandth away from the first."""
    import torch
    from safetensors.torch import save_file

    words, width, layers = SHAPES[size]
    shapes = {"model.embed_tokens.weight": (words, width)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.attn.weight": (4 * width, width), f"{name}.up.weight": (4 * width, width)}
        shapes |= {f"{name}.down.weight": (width, 4 * width), f"{name}.norm.weight": (width,)}
        if size == "1B":
            shapes[f"{name}.gate.weight"] = (2 * width, width)
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(1 << 24, generator=generator) * 0.02
    paths = []
    for step, drift in ((100, 0.0), (200, 1e-3)):
        content = {}
        for name, shape in shapes.items():
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            values = pool.repeat(count // len(pool) + 1)[:count]
            content[name] = (values * (1.0 + drift)).reshape(shape).to(getattr(torch, dtype))
        path = folder / size / dtype / f"checkpoint-{step}"
        path.mkdir(parents=True)
        save_file(content, path / "model.safetensors")
        paths.append(path)
    return paths[0], paths[1]


def measure(way: str, first: Path, second: Path) -> dict[str, float]:
    """Seconds and MiB of one process."""
    root = str(Path(__file__).parents[2])
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, "PYTHONPATH": root, **dict.fromkeys(names, "1")}
    script = PREAMBLE + WAYS[way] + "\nrun(work)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(first), str(second)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    """Print a table; the exit code is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["124M"], choices=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(GOALS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plain-rounds", type=int, default=1, help="of (b), which takes long")
    parser.add_argument("--folder", type=Path, help="where to write the checkpoints (default: a temporary folder)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    missed = 0
    print("| model | way | seconds | CPU s | GB/s | x sum | CPU x sum | x plain | CPU x plain | extra MiB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size in arguments.sizes:
            for dtype in arguments.dtypes:
                paths = write(Path(folder), size, dtype)
                missed += compare(size, dtype, *paths, arguments.rounds, arguments.plain_rounds)
                for path in paths:
                    shutil.rmtree(path)
    waits = on_save(arguments.rounds * 4)
    print(f"on_save: median {1e3 * statistics.median(waits):.2f} ms, largest {1e3 * max(waits):.2f} ms")
    return int(missed > 0 or statistics.median(waits) > ON_SAVE_SECONDS)


def on_save(saves: int) -> list[float]:
    """Seconds on the training's thread for each save of a training that keeps two checkpoints."""
    import torch
    from safetensors.torch import save_file
    from transformers import GPT2Config, GPT2LMHeadModel

    from rldk_tracking.probes.base import Training
    from rldk_tracking.probes.checkpoints import CheckpointProbe

    model = GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=48))
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, 512, (1, 8))
    model(input_ids=tokens, labels=tokens).loss.backward()
    waits = []
    with tempfile.TemporaryDirectory() as folder:
        args = SimpleNamespace(output_dir=folder, save_total_limit=2, save_steps=1, max_steps=saves)
        probe = CheckpointProbe(close_timeout=0.0)
        probe.begin(Training(args=args, model=model, optimizer=optimizer))
        optimizer.step()
        for step in range(1, saves + 1):
            path = Path(folder) / f"checkpoint-{step}"
            path.mkdir()
            save_file({"w": torch.ones(8)}, path / "model.safetensors")
            start = time.perf_counter()
            probe.saved(step)
            waits.append(time.perf_counter() - start)
        probe.end()
    return waits[1:]


def compare(size: str, dtype: str, first: Path, second: Path, rounds: int, plain_rounds: int) -> int:
    """Print the rows of one model; returns how many goals were missed."""
    gigabytes = sum((path / "model.safetensors").stat().st_size for path in (first, second)) / 1e9
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    measure("sum", first, second)  # into the page cache
    for index in range(rounds):
        order = ("sum", "ours") if index % 2 else ("ours", "sum")
        for way in order if index >= plain_rounds else (*order, "plain"):
            found[way].append(measure(way, first, second))

    def ratio(way: str, other: str, what: str) -> float:
        return statistics.median(one[what] / two[what] for one, two in zip(found[way], found[other], strict=False))

    for way, parts in found.items():
        seconds, cpu, mib = (statistics.median(part[what] for part in parts) for what in ("seconds", "cpu", "mib"))
        print(
            f"| {size} {dtype} | {way} | {seconds:.3f} | {cpu:.3f} | {gigabytes / seconds:.1f} "
            f"| {ratio(way, 'sum', 'seconds'):.2f} | {ratio(way, 'sum', 'cpu'):.2f} "
            f"| {ratio(way, 'plain', 'seconds'):.3f} | {ratio(way, 'plain', 'cpu'):.3f} | {mib:.0f} |",
            flush=True,
        )
    against_sum, against_plain = GOALS[dtype]
    failures = [
        ratio("ours", "sum", "seconds") > against_sum,
        max(part["mib"] for part in found["ours"]) > EXTRA_MIB,
        against_plain is not None and ratio("ours", "plain", "seconds") > against_plain,
    ]
    return sum(failures)


if __name__ == "__main__":
    sys.exit(main())
