"""What the small suite found with each TRL release, and the page that is made of it.

`python -m tests.versions.result` writes the tables of docs/trainers/versions.md anew from all result files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "trainers" / "versions.md"
RESULTS = Path(__file__).with_name("results")
BEGIN, END = "<!-- made by tests/versions/result.py from tests/versions/results/ -->", "<!-- end -->"


@dataclass
class Training:
    """One training.

    Args:
        series: number of `rldk/` series in the tracker.
        compared: numbers that were held against the trainer's own.
        differing: a sentence on each that is not the same.
        missing: series that this trainer has with TRL 1.12 and that did not come.
        said: the package's warnings, each once.
        alerts: sentences of the alerts that were looked for.
    """

    series: int
    compared: int
    differing: list[str]
    missing: list[str]
    said: list[str]
    alerts: list[str] = field(default_factory=list)


@dataclass
class Result:
    """What was found with one release.

    Args:
        date: of the run, `2026-11-28`.
        versions: package to version, and that of Python.
        trainings: trainer to what was found.
    """

    date: str
    versions: dict[str, str]
    trainings: dict[str, Training]


def results(folder: Path = RESULTS) -> list[Result]:
    """All result files, oldest release first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    made = [Result(**{**one, "trainings": {k: Training(**v) for k, v in one["trainings"].items()}}) for one in found]
    return sorted(made, key=lambda one: Version(one.versions["trl"]))


def tables(found: list[Result]) -> str:
    """A line for each training, and what was said."""
    head = ("TRL", "transformers", "trainer", "series", "missing", "a word?", "numbers compared", "differing", "date")
    rows = [head, ("---", "---", "---", "---:", "---:", "---", "---:", "---:", "---")]
    sentences: dict[str, list[str]] = {}
    for one in found:
        for name, training in one.trainings.items():
            for sentence in training.said:
                sentences.setdefault(sentence, []).append(f"TRL {one.versions['trl']}, {name}")
            numbers = [list(sentences).index(sentence) + 1 for sentence in training.said]
            word = ", ".join(f"({number})" for number in numbers) or ("none" if training.missing else "none needed")
            counts = (str(training.series), str(len(training.missing)), word)
            compared = (str(training.compared), str(len(training.differing)), one.date)
            rows.append((one.versions["trl"], one.versions["transformers"], name, *counts, *compared))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    under = {f"Python {one.versions['Python']} and torch {one.versions['torch']}" for one in found}
    lines += ["", f"With {', '.join(sorted(under))}."]
    lines += ["", "What was said:", ""] if sentences else []
    lines += [f"{i}. “{sentence}” ({'; '.join(where)})" for i, (sentence, where) in enumerate(sentences.items(), 1)]
    return "\n".join(lines)


def page(text: str, found: list[Result]) -> str:
    """The page, with the tables of these results in the place of those that it had."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results()), encoding="utf-8")
