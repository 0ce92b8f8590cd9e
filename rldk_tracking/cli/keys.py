"""`rldk-tracking keys`: the catalogue of series as a table for the terminal, as Markdown, or as JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from dataclasses import asdict

from rldk_tracking.metrics.keys import CATALOGUE, Key

COLUMNS = ("name", "unit", "meaning", "formula", "source", "direction")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("prefix", nargs="?", default="", help="only keys that begin so, such as kl or rldk/kl")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")


def run(arguments: argparse.Namespace) -> int:
    """Print the keys. Returns 1 where the prefix fits none."""
    rows = select(arguments.prefix)
    if not rows:
        sys.stderr.write(f"No key begins with {arguments.prefix!r}. Without a prefix, all keys are printed.\n")
        return 1
    writers = {"table": table, "markdown": markdown, "json": as_json}
    print(writers[arguments.format](rows))
    return 0


def select(prefix: str) -> list[Key]:
    """The rows of the catalogue whose name begins with the prefix, with or without `rldk/`."""
    full = prefix if prefix.startswith("rldk/") else f"rldk/{prefix}"
    return [key for name, key in sorted(CATALOGUE.items()) if name.startswith(full)]


def table(rows: list[Key]) -> str:
    """A block for each key, wrapped to the terminal."""
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    return "\n\n".join(_block(key, width) for key in rows)


def _block(key: Key, width: int) -> str:
    lines = [f"{key.name}  [{key.unit}]"]
    for text in (key.meaning, f"formula: {key.formula}", f"source: {key.source}, in {key.module}"):
        lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="      ")
    return "\n".join([*lines, f"    direction: {key.direction}"])


def markdown(rows: list[Key]) -> str:
    """One table, for a document."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for key in rows:
        cells = [str(getattr(key, column)).replace("|", "\\|") for column in COLUMNS]
        cells[0] = f"`{cells[0]}`"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(rows: list[Key]) -> str:
    """A list of objects, one for each key."""
    return json.dumps([asdict(key) for key in rows], indent=2)
