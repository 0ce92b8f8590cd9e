"""`rldk-tracking report SOURCE -o report.html`: a past run on one page, or its series as a table.

With several sources, `rldk-tracking report A B -o page.html`: the runs side by side on one page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rldk_tracking.messages.arguments import printable

FORMATS = (".html", ".md", ".csv", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "source",
        nargs="+",
        help="a run's folder, journal or log, mlflow:RUN_ID, or wandb:ENTITY/PROJECT/RUN; several are compared",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), help=f"a file that ends in {', '.join(FORMATS)}"
    )
    parser.add_argument("--title", help="heading of the page; the run's name by default")
    parser.add_argument("--rules", default="safe", help="rules for a run that was not watched: safe, strict or quiet")


def run(arguments: argparse.Namespace) -> int:
    """Write the file. Returns 0 whatever the run's health: `replay` is the command whose exit code tells it."""
    from rldk_tracking.charts.report import comparison
    from rldk_tracking.history.past import load, write_csv, write_parquet

    output: Path = arguments.output
    sources: list[str] = arguments.source
    if output.suffix not in FORMATS:
        raise SystemExit(f"{output}: the file's name must end in {', '.join(FORMATS)}.")
    if not output.parent.is_dir():
        raise SystemExit(f"{output}: No such file or directory: the folder must be there.")
    if len(sources) > 1 and (output.suffix != ".html" or arguments.title):
        raise SystemExit("Several runs side by side are an .html page, with the runs' own names as titles.")
    source = sources[0]
    try:
        pasts = []
        for source in sources:
            pasts.append(load(source, arguments.rules))
        past, reports = pasts[0], [past.report(arguments.title) for past in pasts]
        if output.suffix == ".csv":
            write_csv(output, past.rows)
        elif output.suffix == ".parquet":
            write_parquet(output, past.rows)
        else:
            page = reports[0].html if len(reports) == 1 else lambda: comparison(reports)
            text = page() if output.suffix == ".html" else reports[0].markdown()
            output.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as fault:
        raise SystemExit(f"{fault.filename or source}: {fault.strerror or fault}.") from fault
    except (ValueError, ImportError) as fault:
        raise SystemExit(str(fault)) from fault
    for past, report in zip(pasts, reports, strict=True):
        heading = f"{report.title}: " if len(reports) > 1 else ""
        for line in (f"{heading}{report.verdict}", *past.notes):
            print(printable(line))
    print(printable(f"{output}: {output.stat().st_size / 1024:.0f} KiB"))
    return 0
