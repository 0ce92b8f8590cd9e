"""Every series that there is: what it means, its unit, how it is computed, and which way is better.

A key is documented once, in the docstring of the module that computes it, under the line `MARK`. An entry is

    rldk/<group>/<name>[/<stat>] | unit | source [| direction] [| reduce]
        What it tells.
        = how it is computed

The modules are read as text, not imported, so that neither torch nor numpy is needed. A name may hold a
`<placeholder>`, which stands for what only the run knows. With `{p10,p50,p90}` in it the entry is one for each, and
`{stat}` in its text says which.

Quantities "over tokens" mean the response tokens of the whole batch, of all ranks, each weighing the same; standard
deviations have n - 1 in the denominator; percentiles interpolate linearly. A quantity that does not exist for a step
has no value there: it is never written as 0 or NaN.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

MARK = "Keys, read by `rldk_tracking.metrics.keys`:"

Source = Literal["rollout", "update", "logs", "optimizer", "host", "rules", "checkpoint", "user"]
"""Where the number comes from.

rollout: computed here from the tensors of a `Rollout`; where there is none, from the trainer's logs if they hold it.
update: computed here from the tensors of a `PolicyUpdate`; likewise.
logs: only the trainer knows it.
optimizer: measured around the optimizer's step.
host: measured on the process, its machine and its GPU.
rules: follows from the other series.
checkpoint: measured on saved weights.
user: something that the user supplied.
"""

Direction = Literal["higher", "lower", "none"]
"""Which way is better, all else equal; "none" where both ways can be trouble."""

Reduce = Literal["mean", "max", "min", "sum"]
"""How one number is made where each rank measured its own. Numbers of source "rollout" and "update" never need it:
they are computed from all ranks' completions at once."""

_COUNTS = {
    *("tensors", "steps", "completions", "layers", "samples", "s", "1/s", "files", "problems", "checkpoints"),
    *("alerts", "rules", "writes", "trackers", "tokens", "GiB", "reward^2", "versions"),
}
_SHARE = re.compile(r"(_|/)(fraction|accuracy)(_\w+)?$")
_MAGNITUDE = re.compile(
    r"(_|/)(fraction|accuracy|std|stderr|norm|ratio|ess|rms|entropy|perplexity|learning_rate|lr|abs|k[23])"
    r"(_(mean|max|min|sequence|p\d+))*(/(p\d+|max|min|mean|std|<\w+>))?$"
)


@dataclass(frozen=True, slots=True)
class Key:
    """One series, or a family of them where the name holds a `<placeholder>`.

    Attributes:
        name: `rldk/<group>/<name>[/<stat>]`.
        unit: of the values; "1" for shares and other pure numbers.
        meaning: what it tells, in a sentence.
        formula: how it is computed.
        source: where it comes from.
        direction: which way is better.
        reduce: how per-rank values are merged.
        module: the file that computes and documents it.
    """

    name: str
    unit: str
    meaning: str
    formula: str
    source: Source
    direction: Direction = "none"
    reduce: Reduce = "mean"
    module: str = ""

    @property
    def lowest(self) -> float | None:
        """0 where no value can be below it; None where that is not known. A single batch's estimate of a KL can."""
        return 0.0 if self.unit in _COUNTS or self.highest is not None or _MAGNITUDE.search(self.name) else None

    @property
    def highest(self) -> float | None:
        """1 for shares and scores; None where there is no highest value, or it is not known."""
        return 1.0 if self.unit == "score in [0, 1]" or _SHARE.search(self.name) else None


_SECTION = re.compile(rf"^{re.escape(MARK)}\n((?:(?:    .*)?\n)+)", re.MULTILINE)
_WORDS = {"p10": "10th percentile", "p50": "median", "p90": "90th percentile", "max": "maximum", "min": "minimum"} | {
    "kl": "KL",
    "grad_norm": "gradient norm",
}
"""What `{stat}` becomes, where it is not the name itself."""


def documented(text: str, module: str = "") -> list[Key]:
    """The keys that a module's text documents.

    Args:
        text: the module's source.
        module: its path.

    Raises:
        ValueError: an entry is not as this module's docstring says.
    """
    section = _SECTION.search(text)
    entries = re.split(r"\n(?=    \S)", section[1].strip("\n")) if section else []
    return [key for entry in entries for key in _family(_key(entry, module))]


def _key(entry: str, module: str) -> Key:
    head, *lines = (line.strip() for line in entry.splitlines())
    begin = next((number for number, line in enumerate(lines) if line.startswith("= ")), len(lines))
    meaning, formula = " ".join(lines[:begin]), " ".join(lines[begin:]).removeprefix("= ")
    name, *fields = head.split(" | ")
    known: dict[str, Any] = dict(zip(("unit", "source"), fields, strict=False))
    for field in fields[2:]:
        known["reduce" if field.endswith(" over ranks") else "direction"] = field.removesuffix(" over ranks")
    key = Key(name, **{"unit": "", "source": "", **known}, meaning=meaning, formula=formula, module=module)
    kinds = ((key.source, Source), (key.direction, Direction), (key.reduce, Reduce))
    if not (key.unit and meaning and formula and all(value in get_args(kind) for value, kind in kinds)):
        raise ValueError(
            f"{module}: {head!r} is no entry for a key. It is `name | unit | source`, with `| higher` or `| lower` and "
            "`| max over ranks` where that applies, and under it what it tells and ` = ` how it is computed."
        )
    return key


def _family(key: Key) -> Iterator[Key]:
    """The key, or one for each of the statistics in its braces."""
    begin, brace, rest = key.name.partition("{")
    if not brace:
        yield key
        return
    stats, _, end = rest.partition("}")
    for stat in stats.split(","):
        meaning, formula = (text.replace("{stat}", _WORDS.get(stat, stat)) for text in (key.meaning, key.formula))
        yield replace(key, name=begin + stat + end, meaning=meaning, formula=formula)


def _read() -> list[Key]:
    found = []
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if MARK in text:
            found += documented(text, path.relative_to(root.parent).as_posix())
    return found


CATALOGUE: dict[str, Key] = {key.name: key for key in _read()}

_PLACEHOLDER = re.compile(r"<\w+>")
_TEMPLATES = [
    (re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(key.name))), key)
    for key in CATALOGUE.values()
    if _PLACEHOLDER.search(key.name)
]


def lookup(name: str) -> Key | None:
    """The entry of a key, also of one that a template such as `rldk/reward/function/<name>/mean` stands for.

    >>> lookup("rldk/reward/function/judge/mean").name
    'rldk/reward/function/<name>/mean'
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    return next((key for pattern, key in _TEMPLATES if pattern.fullmatch(name)), None)


SIMILAR = 0.9
"""Likeness (`difflib`) from which an unknown name is taken for a misspelt one."""
_GROUPS = {key.name.split("/")[1] for key in CATALOGUE.values() if not key.name.startswith("rldk/<")}


@functools.lru_cache(maxsize=1024)
def misspelt(name: str, *, in_full: bool = False) -> str | None:
    """What is wrong with the name of a series; None where it may be one.

    Users log numbers under names of their own. So a name must be in the catalogue only if it begins with `rldk/` and a
    group of it, or is all but like one of its keys; with `train/` before it a name is always that of a log.

    Args:
        name: as the user wrote it, with or without its `rldk/`.
        in_full: whether it must have that.
    """
    full = name if name.startswith("rldk/") else f"rldk/{name}"
    if lookup(full) is not None:
        return f"there is no series {name!r}; did you mean {full}?" if in_full and full != name else None
    short = full.removeprefix("rldk/")
    known = {key.removeprefix("rldk/"): key for key in CATALOGUE}
    close = difflib.get_close_matches(short, known, 3, SIMILAR)
    group = short.split("/")[0]
    if not close and (group not in _GROUPS or not name.startswith("rldk/")):
        return None
    close = close or difflib.get_close_matches(short, [key for key in known if key.split("/")[0] == group], 3, 0.3)
    hint = f"did you mean {' or '.join(known[key] for key in close)}?" if close else "see `rldk-tracking keys`."
    if not name.startswith("rldk/"):
        hint += f" A number that is logged under this very name is train/{name}."
    return f"there is no series {name!r}; {hint}"
