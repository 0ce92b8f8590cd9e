"""What the catalogue says of a series, and the units and statistics that its rows share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

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
    """

    name: str
    unit: str
    meaning: str
    formula: str
    source: Source
    direction: Direction = "none"
    reduce: Reduce = "mean"

    @property
    def lowest(self) -> float | None:
        """0 where no value can be below it; None where that is not known. A single batch's estimate of a KL can."""
        return 0.0 if self.unit in _COUNTS or self.highest is not None or _MAGNITUDE.search(self.name) else None

    @property
    def highest(self) -> float | None:
        """1 for shares and scores; None where there is no highest value, or it is not known."""
        return 1.0 if self.unit == SCORE or _SHARE.search(self.name) else None


NATS = "nats per token"
REWARD = "reward"
TOKENS = "tokens"
NORM_QUANTILES = (("p10", "10th percentile"), ("p50", "median"), ("p90", "90th percentile"))
EXTREMES = (("max", "maximum"), ("min", "minimum"))
GIB = "GiB"
SAMPLE_STD = "standard deviation (n - 1)"
LINEAR = "interpolated linearly"
SCORE = "score in [0, 1]"

_COUNTS = {
    *("tensors", "steps", "completions", "layers", "samples", "s", "1/s", "files", "problems", "checkpoints"),
    *("alerts", "rules", "writes", "trackers", TOKENS, GIB, "reward^2"),
}
_SHARE = re.compile(r"(_|/)(fraction|accuracy)(_\w+)?$")
_MAGNITUDE = re.compile(
    r"(_|/)(fraction|accuracy|std|stderr|norm|ratio|ess|rms|entropy|perplexity|learning_rate|lr|abs|k[23])"
    r"(_(mean|max|min|sequence|p\d+))*(/(p\d+|max|min|mean|std|<\w+>))?$"
)
