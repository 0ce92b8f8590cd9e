"""Other people's logs, with labels by eye: how often a tool's warnings are right about them.

The folder holds `labels.csv` with the columns file, label (several, by comma), onset_row (`label@row;...`), confidence
(high, medium, low) and source_repo, and the files. A label is found where a rule that is right about it warned, or was
held back as the consequence of another that did; missed where none was, or where the file could not be read. A warning
is false where its rule is right about none of the run's labels; each rule is counted once a run. Rules that no label
speaks of are listed apart.

The repositories are split into folds by a hash of their names, so that all logs of one are in one fold. While a rule
is written, logs of the folds `LOOKED_AT` may be looked at, and no others: `in fold` are the figures of these, `out of
fold` those of the rest, which is what a rule does on logs that its writer has not seen. The intervals (95 %) come from
drawing repositories anew, with replacement: logs of one repository are alike.

rldoctor (PyPI) reads the same files, with names that only the aliases explain changed to names that it knows. Its
detectors are taken for right as widely as their descriptions allow: see `RLDOCTOR`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rldk_tracking.history.replay import replay
from rldk_tracking.history.run_history import UnreadableSourceError

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
Judge = Callable[[Path, Mapping[str, str]], "tuple[Fired, set[str]] | None"]
OUTCOMES = ("found", "false", "missed")
EVERY = ("high", "medium", "low")
FOLDS, LOOKED_AT = 5, (0, 1, 2)
DRAWS = 2000


def fold_of(repository: str) -> int:
    """The fold of a repository's logs, 0 to 4."""
    return int(hashlib.sha256(repository.encode()).hexdigest(), 16) % FOLDS


@dataclass(frozen=True)
class Judged:
    """What one tool said of one log.

    Attributes:
        file: its name below the folder.
        repository: where it is from.
        confidence: of its labels.
        outcomes: label to "found", "false" or "missed".
        is_healthy: whether it is labelled healthy and nothing else.
        warned: rules that warned, right or wrong.
        delays: label to rows from the labelled onset to the warning.
        was_read: whether the tool could read it.
    """

    file: str
    repository: str
    confidence: str
    outcomes: Mapping[str, str]
    is_healthy: bool
    warned: frozenset[str]
    delays: Mapping[str, int]
    was_read: bool

    @property
    def was_looked_at(self) -> bool:
        return fold_of(self.repository) in LOOKED_AT


def ours(path: Path, aliases: Mapping[str, str]) -> tuple[Fired, set[str]] | None:
    """Rules above info with the row of their first alert, and the rules that were held back; None if unreadable."""
    try:
        report = replay(path, aliases=aliases)
    except UnreadableSourceError:
        return None
    fired: dict[str, int] = {}
    for row, alert in report.alerts:
        if alert.state == "firing" and alert.severity != "info":
            fired.setdefault(alert.rule, row)
    return fired, set(report.held_back)


def rldoctor(command: Path) -> Judge:
    """The same of rldoctor's command: its detectors at WARNING or above."""

    def judge(path: Path, aliases: Mapping[str, str]) -> tuple[Fired, set[str]] | None:
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
            return None
        warned = {f["detector"]: None for f in findings if f["severity"] in ("WARNING", "CRITICAL")}
        warned.pop("plateau", None)
        return warned, set()

    return judge


def judge_logs(
    folder: Path, aliases: Mapping[str, str], judge: Judge, rules_of: Mapping[str, tuple[str, ...]]
) -> list[Judged]:
    """Hold a tool's warnings on all logs of a folder to their labels."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as lines:
        return [
            judged(folder, entry, judge(folder / entry["file"], aliases), rules_of) for entry in csv.DictReader(lines)
        ]


def judged(
    folder: Path,
    entry: Mapping[str, str],
    said: tuple[Fired, set[str]] | None,
    rules_of: Mapping[str, tuple[str, ...]],
) -> Judged:
    """Hold what a tool said of one log to its labels."""
    labels = set(entry["label"].split(","))
    onset = dict(part.split("@") for part in entry["onset_row"].split(";") if "@" in part)
    fired, held_back = said or ({}, set())
    right = {rule for label in labels for rule in rules_of.get(label, ())}
    if any(note.startswith("kl_nonzero_at_start") for note in onset):
        right.update(rules_of["kl_blowup"])
    wrong = set(fired) - right
    outcomes: dict[str, str] = {}
    delays: dict[str, int] = {}
    for label, rules in ((label, rules_of[label]) for label in OURS):
        if label in labels:
            found = [rule for rule in rules if rule in fired]
            outcomes[label] = "found" if found or held_back.intersection(rules) else "missed"
            row = onset.get(label, onset.get("reward_hacking") if "hacking" in label else None)
            rows = [at for rule in found if (at := fired[rule]) is not None]
            if rows and row is not None:
                delays[label] = min(rows) - int(row)
        elif wrong.intersection(rules):
            outcomes[label] = "false"
            wrong -= set(rules)
    return Judged(
        file=entry["file"],
        repository=entry["source_repo"],
        confidence=entry["confidence"],
        outcomes=outcomes,
        is_healthy=labels == {"healthy"},
        warned=frozenset(fired),
        delays=delays,
        was_read=said is not None,
    )


def counts(logs: Iterable[Judged], label: str | None = None) -> Counter[str]:
    """Outcome to how often, of all labels or of one."""
    return Counter(outcome for log in logs for name, outcome in log.outcomes.items() if label in (None, name))


def precision(logs: Sequence[Judged]) -> float | None:
    """Which share of the warnings is right; None without any."""
    found = counts(logs)
    return found["found"] / said if (said := found["found"] + found["false"]) else None


def recall(logs: Sequence[Judged]) -> float | None:
    """Which share of the labels was found; None without any."""
    found = counts(logs)
    return found["found"] / labels if (labels := found["found"] + found["missed"]) else None


def healthy_warned(logs: Sequence[Judged]) -> float | None:
    """Which share of the healthy logs got a warning; None without any."""
    healthy = [bool(log.warned) for log in logs if log.is_healthy]
    return sum(healthy) / len(healthy) if healthy else None


def interval(logs: Sequence[Judged], share: Callable[[Sequence[Judged]], float | None]) -> tuple[float, float] | None:
    """95 % of what a share is where repositories are drawn anew."""
    of: dict[str, list[Judged]] = {}
    for log in logs:
        of.setdefault(log.repository, []).append(log)
    draw, names = random.Random(0), list(of)
    drawn = [share([log for name in draw.choices(names, k=len(names)) for log in of[name]]) for _ in range(DRAWS)]
    known = sorted(value for value in drawn if value is not None)
    return (known[int(0.025 * len(known))], known[int(0.975 * len(known))]) if known else None


def with_interval(logs: Sequence[Judged], share: Callable[[Sequence[Judged]], float | None]) -> str:
    """`0.90 (0.81 to 0.97)`."""
    value = share(logs)
    if value is None:
        return "none"
    low, high = interval(logs, share) or (value, value)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def described(tools: Mapping[str, Sequence[Judged]]) -> str:
    """A table with a row for each tool and part, and one with a row for each label, in Markdown."""
    heading = ["tool", "logs", "labels", "precision", "recall", "healthy with a warning", "unreadable"]
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for part in (False, True):
        for name, everything in tools.items():
            for confidences in (("high",), EVERY):
                whole = [log for log in everything if log.was_looked_at is part]
                logs = [log for log in whole if log.confidence in confidences]
                healthy = [log for log in logs if log.is_healthy]
                cells = [
                    name,
                    f"{'in fold' if part else '**out of fold**'}, {len(logs)}",
                    "of high confidence" if len(confidences) == 1 else "all",
                    *(with_interval(logs, share) for share in (precision, recall)),
                    f"{sum(bool(log.warned) for log in healthy)} of {len(healthy)}",
                    str(sum(not log.was_read for log in logs)),
                ]
                lines.append(f"| {' | '.join(cells)} |")
    columns = [f"{name}: found, false, missed" for name in tools]
    lines += ["", "Out of fold, all labels:", "", f"| label | {' | '.join(columns)} | delay, rows |"]
    lines.append("|---" * (len(tools) + 2) + "|")
    parts = {name: [log for log in logs if not log.was_looked_at] for name, logs in tools.items()}
    first = next(iter(parts.values()))
    for label in OURS:
        cells = [", ".join(str(counts(logs, label)[outcome]) for outcome in OUTCOMES) for logs in parts.values()]
        late = [log.delays[label] for log in first if label in log.delays]
        if any(cell != "0, 0, 0" for cell in cells):
            lines.append(f"| {label} | {' | '.join(cells)} | {f'{statistics.median(late):g}' if late else ''} |")
    known = {rule for rules in OURS.values() for rule in rules}
    others = Counter(rule for log in first for rule in log.warned if rule not in known)
    told = ", ".join(f"{rule} {count}" for rule, count in others.most_common()) or "none"
    return "\n".join([*lines, "", f"Warnings that no label speaks of: {told}."])


def looked_at(logs: Iterable[Judged]) -> str:
    """What went wrong with each log that may be looked at: a line for each."""
    lines = []
    for log in logs:
        wrong = [f"{label} {outcome}" for label, outcome in log.outcomes.items() if outcome != "found"]
        wrong += ["unreadable"] if not log.was_read else []
        if log.was_looked_at and (wrong or (log.is_healthy and log.warned)):
            said = f"warned {', '.join(sorted(log.warned)) or 'of nothing'}"
            lines.append(f"{log.file} ({log.confidence}): {'; '.join([*wrong, said])}")
    return "\n".join(lines)
