"""`rldk-tracking report SOURCE -o report.html`: a past run on one page, or its series as a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from rldk_tracking.messages.terminal import printable

FORMATS = (".html", ".md", ".csv", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("source", help="a run's folder, journal or log, mlflow:RUN_ID, or wandb:ENTITY/PROJECT/RUN")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help=f"a file that ends in {', '.join(FORMATS)}"
    )
    parser.add_argument("--title", help="heading of the page; the source's name by default")
    parser.add_argument("--rules", default="safe", help="rules for a run that was not watched: safe, strict or quiet")


def run(arguments: argparse.Namespace) -> int:
    """Write the file. Returns 0 whatever the run's health: `replay` is the command whose exit code tells it."""
    from rldk_tracking.history.export import write_csv, write_parquet
    from rldk_tracking.history.past import load

    output: Path = arguments.output
    if output.suffix not in FORMATS:
        raise SystemExit(f"{output}: the file's name must end in {', '.join(FORMATS)}.")
    if not output.parent.is_dir():
        raise SystemExit(f"{output}: No such file or directory: the folder must be there.")
    try:
        past = load(arguments.source, arguments.rules)
        report = past.report(arguments.title)
        if output.suffix == ".csv":
            write_csv(output, past.rows)
        elif output.suffix == ".parquet":
            write_parquet(output, past.rows)
        else:
            text = report.html() if output.suffix == ".html" else report.markdown()
            output.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as fault:
        raise SystemExit(f"{fault.filename or arguments.source}: {fault.strerror or fault}.") from fault
    except (ValueError, ImportError) as fault:
        raise SystemExit(str(fault)) from fault
    for line in (report.verdict, *past.notes, f"{output}: {output.stat().st_size / 1024:.0f} KiB"):
        print(printable(line))
    return 0
