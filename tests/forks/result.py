"""What a script of this folder found out about a trainer of another package, as `results/NAME.json`.

`python -m tests.forks.result` writes the tables of docs/trainers/forks.md anew from all result files.
"""

from __future__ import annotations

import json
import logging
import math
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rldk_tracking.history.reading import read
from rldk_tracking.history.replay import replay

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trainers" / "forks.md"
RESULTS = Path(__file__).with_name("results")
BEGIN, END = "<!-- made by tests/forks/result.py from tests/forks/results/ -->", "<!-- end -->"

Series = Mapping[str, Mapping[int, float]]


@dataclass
class Training:
    """One training with the callback in it, or why there is none.

    Args:
        trainer: what is trained with, such as `GRPO`.
        command: what was run, as a user would type it.
        exit_code: of that command; None where nothing could be run.
        series: how many `rldk/` series are in the store.
        stock: how many the same training has with TRL's own trainer of the same version; None where TRL has none.
        missing: reason to the series that are missing: those of `stock` that did not come, or that a user expects.
        said: the warnings of this package, each once.
        compared: how many numbers of the store were compared with the trainer's own tensors or log.
        differing: those that are not equal, a sentence each.
        cannot: why nothing could be run.
    """

    trainer: str
    command: str
    exit_code: int | None = None
    series: int = 0
    stock: int | None = None
    missing: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    compared: int = 0
    differing: list[str] = field(default_factory=list)
    cannot: str | None = None


@dataclass
class Result:
    """What is known of one package.

    Args:
        package: its name.
        date: of the run, `2026-11-28`.
        how: how the trainer was come by, such as `installed, its own command line`.
        versions: of the package and of what it stands on.
        trainings: a line of the table each.
        notes: what was set or stubbed so that it runs on a CPU, and what else must be known.
    """

    package: str
    date: str
    how: str
    versions: dict[str, str]
    trainings: list[Training]
    notes: list[str] = field(default_factory=list)

    def write(self, name: str) -> Path:
        """The result file `results/NAME.json`."""
        path = RESULTS / f"{name}.json"
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def results() -> list[Result]:
    """All result files, in the order of the packages' names."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    made = [Result(**{**one, "trainings": [Training(**training) for training in one["trainings"]]}) for one in found]
    return sorted(made, key=lambda one: one.package.lower())


def stored(database: Path, prefix: str = "rldk/") -> dict[str, dict[int, float]]:
    """The `rldk/` series of the one run in MLflow's sqlite store: step to value. A point that is there twice fails.

    Another prefix reads the trainer's own series in the place of ours.
    """
    series: dict[str, dict[int, float]] = defaultdict(dict)
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as store:
        runs = store.execute("select distinct run_uuid from metrics where key like 'rldk/%'").fetchall()
        if len(runs) != 1:
            raise ValueError(f"{database} has rldk/ series of {len(runs)} runs, not of one")
        for key, step, value, is_nan in store.execute("select key, step, value, is_nan from metrics"):
            if key.startswith(prefix):
                if step in series[key] and key.startswith("rldk/"):
                    raise ValueError(f"{key} is stored twice at step {step}")
                series[key][step] = math.nan if is_nan else value
    return dict(series)


def compared(series: Series, expected: Series, tolerance: float = 1e-5) -> tuple[int, list[str]]:
    """How many numbers were compared, and a sentence on each that is missing or differs by more than the tolerance."""
    count, differing = 0, []
    for key, points in expected.items():
        for step, value in points.items():
            count += 1
            found = series.get(key, {}).get(step)
            if found is None or not math.isclose(found, value, rel_tol=tolerance, abs_tol=tolerance):
                differing.append(f"`{key}` at step {step} is {found}, the trainer has {value}")
    return count, differing


def replayed(name: str, source: str, shown: str, expected: Series, reasons: Mapping[str, Sequence[str]]) -> Training:
    """What `rldk-tracking replay` makes of a log that a trainer's own loggers wrote.

    Args:
        name: of the trainer and of what it logged with.
        source: as for the command.
        shown: the same as a user would type it.
        expected: the trainer's numbers, by our keys.
        reasons: why series are expected to be missing, and which.
    """
    found = read(source)
    series: dict[str, dict[int, float]] = {}
    for entry in found.entries:
        for key, value in entry.row.items():
            series.setdefault(key, {})[entry.step] = value
    count, differing = compared(series, expected)
    judged = replay(found)
    return Training(
        *(name, f"rldk-tracking replay {shown}", 0, len(series)),
        missing={why: [key for key in keys if key not in series] for why, keys in reasons.items()},
        said=[judged.coverage, *judged.notes],
        compared=count,
        differing=differing,
    )


def listen(path: Path) -> None:
    """Let this package's warnings of this process also go to a file, one JSON string a line."""

    class ToFile(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record.getMessage()) + "\n")

    logging.getLogger("rldk_tracking").addHandler(ToFile(logging.WARNING))


def said(path: Path) -> list[str]:
    """What `listen` wrote, each sentence once."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return list(dict.fromkeys(json.loads(line) for line in lines))


def tables(found: list[Result]) -> str:
    """The table of all trainings, and a section for each package."""
    head = (
        *("package", "trainer", "how", "series", "with TRL's own trainer", "missing", "a word?"),
        *("numbers compared", "differing", "date"),
    )
    rows = [_row(one, training) for one in found for training in one.trainings]
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|---|---|---|---:|---:|---:|---|---:|---:|---|")
    return "\n".join([*lines, "", *(line for one in found for line in _section(one))]).rstrip()


def _row(one: Result, training: Training) -> tuple[str, ...]:
    if training.cannot is not None:
        return (one.package, training.trainer, "cannot be run", *[""] * 6, one.date)
    missing = sum(map(len, training.missing.values()))
    word = f"yes, {len(training.said)}" if training.said else "none" if missing else "none needed"
    stock = "" if training.stock is None else str(training.stock)
    numbers = (str(training.compared), str(len(training.differing)))
    return (
        *(one.package, training.trainer, one.how, str(training.series), stock, str(missing), word),
        *(*numbers, one.date),
    )


def _section(one: Result) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in one.versions.items())
    lines = [f"### {one.package}", "", f"{one.how[0].upper()}{one.how[1:]}; {versions}.", ""]
    lines += [line for note in one.notes for line in (f"- {note}",)]
    lines += [""] if one.notes else []
    for training in one.trainings:
        lines += [f"**{training.trainer}**", "", f"    {training.command}", ""]
        if training.cannot is not None:
            lines += [f"Cannot be run: {training.cannot}", ""]
            continue
        lines += [f"Exit code {training.exit_code}."] if training.exit_code else []
        for reason, keys in training.missing.items():
            lines.append(f"- Missing, {reason}: {', '.join(f'`{key}`' for key in sorted(keys))}.")
        lines += [f"- It says: “{sentence}”" for sentence in training.said]
        lines += [f"- Differs: {sentence}." for sentence in training.differing]
        if not (training.missing or training.said or training.differing):
            lines.append("Nothing is missing, nothing differs, nothing was said.")
        lines.append("")
    return lines


def page(text: str, found: list[Result]) -> str:
    """The page, with the tables of these results in the place of those that it had."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}"


def main(arguments: list[str]) -> Any:
    """Write the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
