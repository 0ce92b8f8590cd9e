"""Other people's logs, with labels by eye: how often a tool's warnings are right about them.

The folder holds `labels.csv` with the columns file, label (several, by comma), onset_row (`label@row;...`), confidence
(high, medium, low) and source_repo, and the files. A label is found where a rule that is right about it warned, or was
held back as the consequence of another that did; missed where none was. A warning is false where its rule is right
about none of the run's labels; each rule is counted once a run. Rules that no label speaks of are listed apart.

rldoctor (PyPI) reads the same files, with names that only the aliases explain changed to names that it knows. Its
detectors are taken for right as widely as their descriptions allow: see `RLDOCTOR`.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rldk_tracking.history.replay import replay

OURS: dict[str, tuple[str, ...]] = {
    "no_learning_signal": ("reward.no_signal", "preference.no_signal"),
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

RLDOCTOR: dict[str, tuple[str, ...]] = {
    "no_learning_signal": ("advantage_collapse", "gradient_pathology"),
    "truncation": ("length_pathology",),
    "kl_blowup": ("kl_drift",),
    "entropy_collapse": ("entropy_collapse",),
    "reward_collapse": (),
    "grad_explosion": ("gradient_pathology",),
    "length_collapse": ("length_pathology",),
    "length_explosion": ("length_pathology",),
    "reward_hacking_suspected": ("reward_hacking", "length_pathology"),
    "overfit": ("reward_hacking",),
    "dpo_chosen_logps_collapse": (),
    "nan": ("gradient_pathology",),
}
"""The same for rldoctor's detectors. Its plateau counts neither way: here that is a verdict, and no warning."""

NAMES = {"rldk/reward/gold": "eval_reward", "rldk/reward/mean": "reward", "rldk/policy/entropy": "entropy"}
"""Names that rldoctor knows for the keys that aliases name."""

Fired = Mapping[str, "int | None"]
OUTCOMES = ("found", "false", "missed")
EVERY = ("high", "medium", "low")


@dataclass
class Tally:
    """What came of one tool on all logs.

    Attributes:
        counts: label to (confidence, outcome) to logs.
        weights: the same over all labels, every repository weighing the same.
        healthy: (confidence, whether there was a warning) to logs that are labelled healthy.
        delays: label to rows from the labelled onset to the warning.
        others: warnings of rules that no label speaks of.
    """

    counts: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))
    weights: Counter[tuple[str, str]] = field(default_factory=Counter)
    healthy: Counter[tuple[str, bool]] = field(default_factory=Counter)
    delays: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    others: Counter[str] = field(default_factory=Counter)

    def of(self, confidences: tuple[str, ...], label: str | None = None) -> dict[str, int]:
        """Outcome to logs."""
        chosen = [self.counts[label]] if label is not None else list(self.counts.values())
        return {o: sum(count[c, o] for count in chosen for c in confidences) for o in OUTCOMES}

    def rates(self, confidences: tuple[str, ...], weighed: bool = False) -> tuple[float, float]:
        """Precision and recall."""
        total = {o: sum(self.weights[c, o] for c in confidences) for o in OUTCOMES} if weighed else self.of(confidences)
        found = total["found"]
        return found / max(1e-9, found + total["false"]), found / max(1e-9, found + total["missed"])

    def warned(self, confidences: tuple[str, ...]) -> tuple[int, int]:
        """Healthy logs with a warning, and healthy logs."""
        warned = sum(self.healthy[c, True] for c in confidences)
        return warned, warned + sum(self.healthy[c, False] for c in confidences)


def ours(path: Path, aliases: Mapping[str, str]) -> tuple[Fired, set[str]]:
    """Rules above info with the row of their first alert, and the rules that were held back."""
    report = replay(path, aliases=aliases)
    fired: dict[str, int] = {}
    for row, alert in report.alerts:
        if alert.state == "firing" and alert.severity != "info":
            fired.setdefault(alert.rule, row)
    return fired, set(report.held_back)


def rldoctor(command: Path) -> Callable[[Path, Mapping[str, str]], tuple[Fired, set[str]]]:
    """The same of rldoctor's command: its detectors at WARNING or above."""

    def judge(path: Path, aliases: Mapping[str, str]) -> tuple[Fired, set[str]]:
        with tempfile.TemporaryDirectory() as folder:
            renamed = Path(folder) / path.name
            with path.open(encoding="utf-8") as lines, renamed.open("w", encoding="utf-8") as copy:
                for line in lines:
                    entry = json.loads(line)
                    copy.write(json.dumps({NAMES.get(aliases.get(k, ""), k): v for k, v in entry.items()}) + "\n")
            told = subprocess.run(
                [command, "diagnose", renamed, "--format", "json"], capture_output=True, text=True, check=False
            )
        try:
            findings = json.loads(told.stdout)["findings"]
        except (ValueError, KeyError):
            return {"unreadable": None}, set()
        warned = {f["detector"]: None for f in findings if f["severity"] in ("WARNING", "CRITICAL")}
        warned.pop("plateau", None)
        return warned, set()

    return judge


def judge_logs(
    folder: Path,
    aliases: Mapping[str, str],
    judge: Callable[[Path, Mapping[str, str]], tuple[Fired, set[str]]],
    rules_of: Mapping[str, tuple[str, ...]],
) -> Tally:
    """Hold a tool's warnings on all logs of a folder to their labels."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as lines:
        labelled = list(csv.DictReader(lines))
    runs_of = Counter(entry["source_repo"] for entry in labelled)
    tally = Tally()
    known = {rule for rules in rules_of.values() for rule in rules}
    for entry in labelled:
        labels, confidence = set(entry["label"].split(",")), entry["confidence"]
        onset = dict(part.split("@") for part in entry["onset_row"].split(";") if "@" in part)
        fired, held_back = judge(folder / entry["file"], aliases)
        right = {rule for label in labels for rule in rules_of.get(label, ())}
        if any(note.startswith("kl_nonzero_at_start") for note in onset):
            right.update(rules_of["kl_blowup"])
        if labels == {"healthy"}:
            tally.healthy[confidence, bool(fired)] += 1
        tally.others.update(rule for rule in fired if rule not in known)
        wrong = set(fired) - right
        for label in OURS:
            rules = rules_of[label]
            found = [rule for rule in rules if rule in fired]
            if label in labels:
                outcome = "found" if found or held_back.intersection(rules) else "missed"
                row = onset.get(label, onset.get("reward_hacking") if "hacking" in label else None)
                rows = [at for rule in found if (at := fired[rule]) is not None]
                if rows and row is not None:
                    tally.delays[label].append(min(rows) - int(row))
            elif wrong.intersection(rules):
                outcome = "false"
                wrong -= set(rules)
            else:
                continue
            tally.counts[label][confidence, outcome] += 1
            tally.weights[confidence, outcome] += 1 / runs_of[entry["source_repo"]]
    return tally


def described(tallies: Mapping[str, Tally]) -> str:
    """A table with a row for each tool, and one with a row for each label, in Markdown."""
    heading = ["tool", "precision, recall (high confidence)", "(all)", "(all, by repository)", "healthy with a warning"]
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for name, tally in tallies.items():
        rates = [tally.rates(("high",)), tally.rates(EVERY), tally.rates(EVERY, weighed=True)]
        (warned, healthy), (warned_of_all, all_healthy) = tally.warned(("high",)), tally.warned(EVERY)
        cells = [", ".join(f"{rate:.2f}" for rate in pair) for pair in rates]
        healthy_cell = f"{warned} of {healthy} (high confidence), {warned_of_all} of {all_healthy} (all)"
        lines.append(f"| {' | '.join([name, *cells, healthy_cell])} |")
    lines += ["", f"| label | {' | '.join(f'{name}: found, false, missed' for name in tallies)} | delay, rows |"]
    lines.append("|---" * (len(tallies) + 2) + "|")
    first = next(iter(tallies.values()))
    for label in OURS:
        cells = [", ".join(str(count) for count in tally.of(EVERY, label).values()) for tally in tallies.values()]
        delay = f"{statistics.median(first.delays[label]):g}" if first.delays[label] else ""
        if any(cell != "0, 0, 0" for cell in cells):
            lines.append(f"| {label} | {' | '.join(cells)} | {delay} |")
    others = ", ".join(f"{rule} {count}" for rule, count in first.others.most_common())
    return "\n".join([*lines, "", f"Warnings that no label speaks of: {others}."])
