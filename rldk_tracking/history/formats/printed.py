"""What trainers print, whatever stands between: each style of its own, and the one with the most rows is read."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from rldk_tracking.history.formats.content import Content, Entries, Parsed
from rldk_tracking.history.rows import STEP_NAMES
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.sources.logs import number

COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONGEST_DICTIONARY = 1 << 16
"""Characters. What is longer is no row of a log, and is not parsed."""
EXPECTED = "`step:1 - loss:0.5`, `{'loss': 0.5}` or `Step 1 | Loss 0.5`"


class Style(Protocol):
    """One way of printing rows."""

    name: str

    def take(self, piece: str) -> None:
        """Look at what was printed up to the end of a line, or to where a progress bar is drawn anew."""

    def rows(self) -> Entries:
        """Those that were printed."""


class Verl:
    """`step:1 - actor/lr:1e-06 - critic/kl:np.float64(0.1)`."""

    name = "verl's console"
    _step = re.compile(r"\bstep:(\d+) - (.*)")
    _number = re.compile(r"(?:np\.\w+\()?([-+.\w]+)\)?")

    def __init__(self) -> None:
        self._rows: Entries = []

    def take(self, piece: str) -> None:
        match = self._step.search(piece) if "step:" in piece else None
        if match is None:
            return
        row: dict[str, Any] = {"step": int(match[1])}
        for part in match[2].split(" - "):
            name, colon, value = part.strip().rpartition(":")
            if colon and (found := self._number.match(value)):
                row[name] = found[1]
        self._rows.append(row)

    def rows(self) -> Entries:
        return self._rows


class Dictionaries:
    """`{'loss': 0.5, 'epoch': 0.1}`, also over several lines, and OpenRLHF's `Global step 3: {'policy_loss': 0.5}`.

    Where there are rows with an epoch or a step, as every trainer writes them, another dictionary is a configuration.
    """

    name = "printed dictionaries"
    _whole = re.compile(r"\{['\"][^{}]*\}")
    _opened = re.compile(r"\{['\"][^{}]*$")
    _step = re.compile(r"step[ _:=#]*(\d+)\b[^{}]{0,60}$", re.IGNORECASE)
    _wrapped = re.compile(r"(?:np\.\w+|tensor|array)\(\s*([-+.\w]+)[^()]*\)")
    _not_finite = re.compile(r"(?<=: )(?:nan|-?inf)\b")

    def __init__(self) -> None:
        self._all: Entries = []
        self._marked: Entries = []
        self._held = ""

    def take(self, piece: str) -> None:
        text = self._held + piece
        self._held = ""
        if "{" not in text:
            return
        end = 0
        for match in self._whole.finditer(text):
            row = self._row(match[0])
            before, end = text[max(end, match.start() - 100) : match.start()], match.end()
            if row is None:
                continue
            if (step := self._step.search(before)) and not row.keys() & set(STEP_NAMES):
                row["step"] = int(step[1])
            self._all.append(row)
            if "epoch" in row or row.keys() & {*STEP_NAMES, "global_step/max_steps"}:
                self._marked.append(row)
        opened = self._opened.search(text, end)
        if opened is not None and len(opened[0]) < LONGEST_DICTIONARY:
            self._held = text[max(end, opened.start() - 100) :] + "\n"

    def rows(self) -> Entries:
        return self._marked if len(self._marked) > 1 else self._all

    def _row(self, text: str) -> dict[str, Any] | None:
        if len(text) > LONGEST_DICTIONARY:
            return None
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            plain = self._not_finite.sub(r"'\g<0>'", self._wrapped.sub(r"\1", text))
            try:
                row = ast.literal_eval(plain)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):  # another program's words
                return None
        if not isinstance(row, dict):
            return None
        row = {str(name): value for name, value in row.items()}
        return row if any(number(value) is not None for value in row.values()) else None


class Prime:
    """prime-rl: `Step 1 | 5.10s | Reward 0.5 | Truncation 5.0%`, the trainer's and the orchestrator's of one step."""

    name = "prime-rl's console"
    _step = re.compile(r"\bStep (\d+) \| (.*)")
    _part = re.compile(r"([A-Z][\w. -]*?):? (-?\d[\d.]*(?:e[-+]?\d+)?|nan|-?inf)(%?)(?! ?/)")
    _names: Mapping[str, str] = {"truncation": "truncated_fraction", "lr": "learning_rate"}

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def take(self, piece: str) -> None:
        match = self._step.search(piece) if "Step " in piece else None
        if match is None or piece[: match.start()].endswith("Micro "):
            return
        row = self._rows.setdefault(int(match[1]), {"step": int(match[1])})
        for part in match[2].split(" | "):
            if found := self._part.match(part.strip()):
                name = re.sub(r"\W+", "_", found[1].lower()).strip("_")
                row[self._names.get(name, name)] = float(found[2]) / (100 if found[3] else 1)

    def rows(self) -> Entries:
        return list(self._rows.values())


class Nemo:
    """NeMo-RL: `=== Step 1/10 ===`, then what it found under `Training Results:` and `Validation Results:`.

    Its steps are counted anew in each epoch.
    """

    name = "NeMo-RL's console"
    _step = re.compile(r"={5,} Step (\d+)/\d+ ={5,}")
    _title = re.compile(r"(Training|Validation) Results:")
    _line = re.compile(r"\s*• ([^:]+): (-?[\d.]+(?:e[-+]?\d+)?|nan|-?inf)(?: tokens)?\s*")

    def __init__(self) -> None:
        self._rows: Entries = []
        self._step_now = self._before = self._last = 0
        self._into: dict[str, Any] | None = None
        self._prefix = ""

    def take(self, piece: str) -> None:
        if match := self._step.search(piece):
            step = int(match[1])
            self._before += self._last if step <= self._last else 0
            self._last, self._step_now = step, self._before + step
        elif title := self._title.search(piece):
            self._into = {"step": self._step_now}
            self._rows.append(self._into)
            self._prefix = "eval_" if title[1] == "Validation" else ""
        elif self._into is not None and (line := self._line.fullmatch(piece)):
            self._into[self._prefix + re.sub(r"\W+", "_", line[1].lower())] = line[2]
        elif piece.strip():
            self._into = None

    def rows(self) -> Entries:
        return self._rows


class Bars:
    """Progress bars that carry numbers: `3/9 [00:01<00:02, 1.0it/s, act_loss=0.5, reward=0.1]`."""

    name = "progress bars"
    _bar = re.compile(r"(\d+)/\d+ \[[^\],]*(?:,[^\],=]*)?, (\w[^\]]*=[^\]]*)\]")

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._last = ""

    def take(self, piece: str) -> None:
        match = self._bar.search(piece) if "=" in piece and "[" in piece else None
        if match is None:
            return
        pairs = (part.partition("=") for part in match[2].split(", "))
        row = {name.strip(): value for name, _, value in pairs if number(value) is not None}
        if row and match[1] == self._last:
            self._rows[-1] = row  # the same step, drawn again
        elif row:
            self._rows.append(row)
            self._last = match[1]

    def rows(self) -> Entries:
        return list(self._rows)


def printed_rows(pieces: Iterable[str]) -> tuple[str, Entries]:
    """The style that has the most rows, and these; progress bars only where nothing else was printed."""
    styles: tuple[Style, ...] = (Verl(), Dictionaries(), Prime(), Nemo())
    bars = Bars()
    for piece in pieces:
        for part in re.split(r"[\r\n]+", COLOURS.sub("", piece) if "\x1b" in piece else piece):
            if part:
                for style in (*styles, bars):
                    style.take(part)
    best = max(styles, key=lambda style: len(style.rows()))
    best = best if best.rows() else bars
    return best.name, best.rows()


def read_printed(content: Content) -> Parsed:
    """The rows of a console's log.

    Raises:
        UnreadableSourceError: there are none.
    """
    style, rows = printed_rows(line.decode("utf-8", "replace") for _, line in content.lines())
    if not rows:
        raise UnreadableSourceError(f"{content.path}: no line like {EXPECTED}.")
    return Parsed(style, {"": rows})
