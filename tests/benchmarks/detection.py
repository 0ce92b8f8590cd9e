"""How often the rules are right: `python tests/benchmarks/detection.py faults` and `... logs DIR`.

`faults` trains the tiny model for real, healthy and with faults injected, and prints for each fault how many runs were
found by a rule that is right about it, after how many steps, and what else fired; and for the healthy runs the false
alarms per 1,000 steps and the share of runs with any warning. `--keep DIR` keeps each run's rows, and runs that are
kept are judged again without training.

`logs DIR` judges other people's logs. DIR holds `labels.csv` with the columns file, label (several, by comma),
onset_row (`label@row;...`), confidence (high, medium, low) and source_repo, and the files. Printed are true positives,
false positives and misses per label. "by repository" weighs every repository the same, however many runs it has.
A rule that was held back as the consequence of another that fired counts as found, and never as false.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from rldk_tracking.replaying import Report, replay  # noqa: E402
from rldk_tracking.sources.reading import read  # noqa: E402

RULES_OF: dict[str, tuple[str, ...]] = {
    "no_learning_signal": ("reward.no_signal",),
    "truncation": ("length.truncated",),
    "kl_blowup": ("kl.high", "kl.spike", "reference.mismatch"),
    "entropy_collapse": ("entropy.collapse", "policy.collapse"),
    "reward_collapse": ("reward.collapse", "policy.collapse"),
    "grad_explosion": ("grad.explosion",),
    "length_collapse": ("length.collapse",),
    "length_explosion": ("length.explosion",),
    "reward_hacking_suspected": ("reward.hacking",),
    "overfit": ("preference.overfit",),
    "dpo_chosen_logps_collapse": ("preference.likelihood_collapse",),
    "nan": ("nan.weights", "nan.gradients", "nan.loss", "nan.reward"),
}
"""Label to the rules that are right about it. A plateau has none: no warning is right about it."""


def believed(report: Report) -> dict[str, int]:
    """Rules that fired with a severity above info, with the row of their first alert."""
    fired: dict[str, int] = {}
    for row, alert in report.alerts:
        if alert.state == "firing" and alert.severity != "info":
            fired.setdefault(alert.rule, row)
    return fired


def judge_logs(folder: Path, aliases: dict[str, str]) -> None:
    """Print the tables for labelled logs."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as lines:
        labelled = list(csv.DictReader(lines))
    runs_of = Counter(entry["source_repo"] for entry in labelled)
    counts: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    weights: Counter[tuple[str, str]] = Counter()
    healthy: Counter[tuple[str, bool]] = Counter()
    delays: dict[str, list[int]] = defaultdict(list)
    others: Counter[str] = Counter()
    for entry in labelled:
        report = replay(folder / entry["file"], aliases=aliases)
        labels, confidence = set(entry["label"].split(",")), entry["confidence"]
        onset = dict(part.split("@") for part in entry["onset_row"].split(";") if "@" in part)
        fired = believed(report)
        right = {rule for label in labels for rule in RULES_OF.get(label, ())}
        if any(note.startswith("kl_nonzero_at_start") for note in onset):
            right.add("reference.mismatch")
        if labels == {"healthy"}:
            healthy[confidence, bool(fired)] += 1
        for label, rules in RULES_OF.items():
            found = [rule for rule in rules if rule in fired]
            held = [rule for rule in rules if rule in report.held_back]
            if label in labels:
                outcome = "found" if found or held else "missed"
                row = onset.get(label, onset.get("reward_hacking") if "hacking" in label else None)
                if found and row is not None:
                    delays[label].append(min(fired[rule] for rule in found) - int(row))
            elif found and not set(found) <= right:
                outcome = "false"
            else:
                continue
            counts[label][confidence, outcome] += 1
            weights[confidence, outcome] += 1 / runs_of[entry["source_repo"]]
        others.update(rule for rule in fired if not any(rule in rules for rules in RULES_OF.values()))
    _print_logs(counts, weights, healthy, delays, others)


def _print_logs(counts: Any, weights: Any, healthy: Any, delays: Any, others: Any) -> None:
    heading = ("high: found", "false", "missed", "all: found", "false", "missed")
    cells = [f"{word:>{width}}" for word, width in zip(heading, WIDTHS, strict=True)]
    print(f"{'label':26} {' '.join(cells)}  delay")
    for label in RULES_OF:
        numbers: list[int] = []
        for confidences in (("high",), ("high", "medium", "low")):
            numbers += [sum(counts[label][c, outcome] for c in confidences) for outcome in ("found", "false", "missed")]
        delay = f"{statistics.median(delays[label]):g} rows" if delays[label] else ""
        cells = [f"{number:{width}}" for number, width in zip(numbers, WIDTHS, strict=True)]
        print(f"{label:26} {' '.join(cells)}  {delay}")
    for name, confidences in (("high confidence", ("high",)), ("all", ("high", "medium", "low"))):
        total = Counter({o: sum(counts[label][c, o] for label in counts for c in confidences) for o in OUTCOMES})
        weighed = Counter({o: sum(weights[c, o] for c in confidences) for o in OUTCOMES})
        print(f"{name}: {_rates(total)}; by repository: {_rates(weighed)}")
    for name, confidences in (("high confidence", ("high",)), ("all", ("high", "medium", "low"))):
        warned = sum(healthy[c, True] for c in confidences)
        print(
            f"healthy runs with a warning, {name}: {warned} of {warned + sum(healthy[c, False] for c in confidences)}"
        )
    print(f"rules that no label speaks of: {dict(others)}")


OUTCOMES = ("found", "false", "missed")
WIDTHS = (12, 6, 7, 12, 6, 7)


def _rates(total: Counter[str]) -> str:
    precision = total["found"] / max(1e-9, total["found"] + total["false"])
    recall = total["found"] / max(1e-9, total["found"] + total["missed"])
    return f"precision {precision:.2f}, recall {recall:.2f}"


def train(kind: str, name: str, seed: int, steps: int, keep: Path, injected: Any = None, **settings: Any) -> Path:
    """One run's rows, from the folder or by training."""
    path = keep / f"{kind}-{name}-{seed}.jsonl"
    if path.exists():
        return path
    from rldk_tracking import JsonlTracker, RLDKCallback
    from rldk_tracking.demo import trainers

    partial = keep / f"{path.stem}.part.jsonl"
    partial.unlink(missing_ok=True)
    options = dict(injected.options) if injected is not None else {}
    callback = RLDKCallback(trackers=[JsonlTracker(partial)], **options)
    at = steps // 2
    if injected is not None:
        settings |= injected.fault.settings(at)
    settings.setdefault("max_steps", steps)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trainer = getattr(trainers, f"{kind}_trainer")(folder, callbacks=[callback], seed=seed, **settings)
        if injected is not None:
            injected.fault.apply(trainer, at)
        try:
            trainer.train()
        except (RuntimeError, ValueError) as error:  # sampling from NaN ends a run; what was logged before counts
            print(f"  {path.stem} ended: {str(error)[:80]}", file=sys.stderr)
    partial.rename(path)
    print(f"  {path.stem} {time.monotonic() - began:.0f} s", file=sys.stderr)
    return path


def judge_faults(kinds: list[str], seeds: int, keep: Path, only: list[str]) -> None:
    """Train, judge, and print the tables."""
    from faults import HEALTHY, INJECTED

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    keep.mkdir(parents=True, exist_ok=True)
    healthy_steps, false, warned, critical, runs = 0, Counter[str](), 0, 0, 0
    for kind in kinds if not only else []:
        for name, settings in HEALTHY[kind].items():
            for seed in range(seeds):
                path = train(kind, name, seed, 60, keep, **settings)
                report = replay(path)
                fired = believed(report)
                healthy_steps += report.rows
                runs, warned, critical = runs + 1, warned + bool(fired), critical + (report.verdict == "critical")
                false.update(fired)
                if fired:
                    print(f"  false: {path.stem} {fired}", file=sys.stderr)
    if runs:
        rate = 1000 * sum(false.values()) / healthy_steps
        print(f"healthy: {runs} runs, {healthy_steps} rows; {warned} with a warning, {critical} with a critical one")
        print(f"{rate:.1f} false alarms per 1,000 rows {dict(false) or ''}")
    print(f"{'fault':18} {'runs':>4} {'found':>6} {'delay':>6}  beside the right rules")
    totals, all_delays = Counter[str](), []
    for name, injected in INJECTED.items():
        if only and name not in only:
            continue
        found, delays, beside, tried = 0, [], Counter[str](), 0
        for kind in (kind for kind in injected.kinds if kind in kinds):
            for seed in range(seeds):
                path = train(kind, f"fault_{name}", seed, injected.steps, keep, injected)
                fired = believed(replay(path))
                steps = [entry.step for entry in read(path).entries]
                index = {entry.index: entry.step for entry in read(path).entries}
                begin = steps[0] if injected.fault.from_start else injected.steps // 2
                hits = [index[row] - begin for rule, row in fired.items() if rule in injected.fault.rules]
                late = [delay for delay in hits if delay >= 0]
                tried, found = tried + 1, found + bool(late)
                delays += [min(late)] if late else []
                beside.update(rule for rule in fired if rule not in injected.fault.rules)
        if tried:
            delay = f"{statistics.median(delays):g}" if delays else ""
            print(f"{name:18} {tried:4} {found:6} {delay:>6}  {dict(beside) or ''}")
            totals.update(tried=tried, found=found)
            all_delays += delays
    if totals["tried"]:
        print(f"recall {totals['found'] / totals['tried']:.2f} over {totals['tried']} runs, "
              f"median delay {statistics.median(all_delays):g} steps")  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    logs = commands.add_parser("logs", help="labelled logs")
    logs.add_argument("folder", type=Path)
    logs.add_argument("--alias", action="append", default=[], metavar="NAME=KEY", help="a name in the logs for a key")
    faults = commands.add_parser("faults", help="injected faults")
    faults.add_argument("--kinds", nargs="+", default=["grpo", "rloo", "ppo"])
    faults.add_argument("--seeds", type=int, default=5)
    faults.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "rldk_detection")
    faults.add_argument("--only", nargs="*", default=[], help="names of faults")
    arguments = parser.parse_args()
    if arguments.command == "logs":
        judge_logs(arguments.folder, dict(pair.split("=", 1) for pair in arguments.alias))
    else:
        judge_faults(arguments.kinds, arguments.seeds, arguments.keep, arguments.only)


if __name__ == "__main__":
    main()
