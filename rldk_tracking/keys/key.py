"""What the catalogue says of a series, and the units and statistics that its rows share."""

from __future__ import annotations

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


NATS = "nats per token"
REWARD = "reward"
TOKENS = "tokens"
NORM_QUANTILES = (("p10", "10th percentile"), ("p50", "median"), ("p90", "90th percentile"))
EXTREMES = (("max", "maximum"), ("min", "minimum"))
GIB = "GiB"
SCORE = "score in [0, 1]"
