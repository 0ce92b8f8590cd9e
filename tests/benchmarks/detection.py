"""How often the rules are right: `python tests/benchmarks/detection.py faults`, `... logs DIR`, `... synthetic`.

`faults` trains the tiny model for real with GRPO, RLOO and PPO, healthy in many ways (`healthy.py`) and with faults
injected (`faults.py`), and says for each fault how many runs were found by a rule that is right about it and after how
many steps, and for the healthy runs the false alarms. `--keep DIR` keeps each run's rows: what is kept is judged again
without training, so that a rule can be changed and measured in seconds.

`logs DIR` judges other people's logs, see `strangers.py`; `--rldoctor COMMAND` judges the same by rldoctor, `--look`
says what was wrong of each log that may be looked at.

`synthetic` makes thousands of rows up, healthy and with a fault at any row, see `synthetic.py`.

`--markdown FILE` writes the tables into the file, between the lines `<!-- detection faults -->` (or `logs`,
`synthetic`) and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import strangers  # noqa: E402
import synthetic  # noqa: E402
from faults import FAULTS  # noqa: E402
from training import KINDS, begin, plan, quieten, train  # noqa: E402

from rldk_tracking.health.presets import builtin_rules  # noqa: E402
from rldk_tracking.history.reading import read  # noqa: E402
from rldk_tracking.history.replay import replay  # noqa: E402


@dataclass
class Measured:
    """What the rules said of all runs.

    Attributes:
        tried: fault to its runs.
        delays: fault to the steps until a right rule fired, of the runs in which one did.
        first: fault to the rules that were first.
        early: alarms in faulty runs before the fault.
        healthy, warned, critical, steps: healthy runs, those with a warning, with a critical alert, and their steps.
        false: rule to the healthy runs in which it warned.
    """

    tried: Counter[str] = field(default_factory=Counter)
    delays: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    first: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    early: Counter[str] = field(default_factory=Counter)
    healthy: int = 0
    warned: int = 0
    critical: int = 0
    steps: int = 0
    false: Counter[str] = field(default_factory=Counter)


def judge_faults(
    kinds: list[str], seeds: int, full: int, keep: Path, only: list[str], minutes: float | None
) -> Measured:
    """Train and judge every planned run; after `minutes` only what is kept."""
    quieten()
    keep.mkdir(parents=True, exist_ok=True)
    measured, began = Measured(), time.monotonic()
    for run in plan(kinds, seeds, full, only):
        late = minutes is not None and time.monotonic() - began > 60 * minutes
        if late and not run.path(keep).exists():
            continue
        path = train(run, keep)
        report = replay(path)
        steps = {entry.index: entry.step for entry in read(path).entries}
        fired: dict[str, int] = {}
        for row, alert in report.alerts:
            if alert.state == "firing" and alert.severity != "info":
                fired.setdefault(alert.rule, steps[row])
        if run.fault is None:
            measured.healthy += 1
            measured.warned += bool(fired)
            measured.critical += report.verdict == "critical"
            measured.steps += report.rows
            measured.false.update(fired.keys())
        else:
            start = begin(run)
            right = {rule: step - start for rule, step in fired.items() if rule in run.fault.rules and step >= start}
            measured.early.update(rule for rule, step in fired.items() if step < start)
            measured.tried[run.name] += 1
            if right:
                rule = min(right, key=lambda name: right[name])
                measured.delays[run.name].append(right[rule])
                measured.first[run.name][rule] += 1
        if fired and (run.fault is None or not measured.delays[run.name]):
            print(f"  {path.stem}: {fired}", file=sys.stderr)
    return measured


def described(measured: Measured) -> str:
    """The tables, in Markdown."""
    delays = [delay for found in measured.delays.values() for delay in found]
    tried = sum(measured.tried.values())
    lines = ["| fault | runs | found | delay in steps: median, worst | first to tell |", "|---|---|---|---|---|"]
    for name, fault in FAULTS.items():
        if not measured.tried[name]:
            continue
        found = measured.delays[name]
        late = f"{statistics.median(found):g}, {max(found)}" if found else ""
        rules = ", ".join(f"`{rule}`" for rule, _ in measured.first[name].most_common(3))
        lines.append(f"| {name}: {fault.summary} | {measured.tried[name]} | {len(found)} | {late} | {rules} |")
    if tried:
        middle = f"{statistics.median(delays):g}" if delays else "unknown"
        lines += [
            "",
            f"Recall {len(delays) / tried:.3f} over {tried} runs; median delay {middle} steps; "
            f"{sum(measured.early.values())} alarms before the fault.",
        ]
    if measured.healthy:
        share = measured.warned / measured.healthy
        lines += [
            "",
            f"Healthy: {measured.healthy} runs, {measured.steps} steps; {measured.warned} runs ({share:.1%}) with a "
            f"warning, {measured.critical} with a critical alert. False alarms per 1,000 healthy steps:",
            "",
            "| rule | per 1,000 steps |",
            "|---|---|",
        ]
        for rule, count in measured.false.most_common():
            lines.append(f"| `{rule}` | {1000 * count / measured.steps:.2f} |")
        lines.append(f"| each of the other {len(builtin_rules()) - len(measured.false)} | 0 |")
    return "\n".join(lines)


def write(path: Path, part: str, text: str) -> None:
    """Put the text into a file, between the lines that mark the part.

    Raises:
        ValueError: the file has no such lines.
    """
    mark, end = f"<!-- detection {part} -->", "<!-- end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(mark)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no lines {mark} and {end}.")
    path.write_text(f"{before}{mark}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    logs = commands.add_parser("logs", help="other people's labelled logs")
    logs.add_argument("folder", type=Path)
    logs.add_argument("--alias", action="append", default=[], metavar="NAME=KEY", help="a name in the logs for a key")
    logs.add_argument("--rldoctor", type=Path, metavar="COMMAND", help="judge by this one too")
    logs.add_argument("--look", action="store_true", help="say what was wrong of each log that may be looked at")
    faults = commands.add_parser("faults", help="injected faults")
    faults.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    faults.add_argument("--seeds", type=int, default=5)
    faults.add_argument("--full", type=int, default=2, help="seeds with every trainer; the others have one each")
    faults.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "rldk_detection")
    faults.add_argument("--only", nargs="*", default=[], help="names of faults or configurations")
    faults.add_argument("--minutes", type=float, help="train no longer than this; 0 judges what is kept")
    made_up = commands.add_parser("synthetic", help="made-up runs")
    made_up.add_argument("--seeds", type=int, default=8, help="runs of each family, and of each fault at each row")
    for command in (logs, faults, made_up):
        command.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables into this file")
    arguments = parser.parse_args()
    if arguments.command == "logs":
        aliases = dict(pair.split("=", 1) for pair in arguments.alias)
        tools = {"rldk-tracking": strangers.judge_logs(arguments.folder, aliases, strangers.ours, strangers.OURS)}
        if arguments.look:
            print(strangers.looked_at(tools["rldk-tracking"]), file=sys.stderr)
        if arguments.rldoctor is not None:
            theirs = strangers.rldoctor(arguments.rldoctor.resolve())
            tools["rldoctor"] = strangers.judge_logs(arguments.folder, aliases, theirs, strangers.RLDOCTOR)
        text = strangers.described(tools)
    elif arguments.command == "synthetic":
        text = synthetic.described(synthetic.measure(arguments.seeds))
    else:
        text = described(
            judge_faults(
                arguments.kinds, arguments.seeds, arguments.full, arguments.keep, arguments.only, arguments.minutes
            )
        )
    print(text)
    if arguments.markdown is not None:
        write(arguments.markdown, arguments.command, text)


if __name__ == "__main__":
    main()
