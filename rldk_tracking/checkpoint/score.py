"""Is a checkpoint any good? A score in [0, 1] that is as low as its worst part.

Keys, read by `rldk_tracking.keys`:

    rldk/checkpoint/score | score in [0, 1] | checkpoint | higher
        Health of the last checkpoint.
        = its lowest part
    rldk/checkpoint/part/intact | score in [0, 1] | checkpoint | higher
        1 where every file can be read.
        = 0 with a file that cannot be read whole, else 1
    rldk/checkpoint/part/complete | score in [0, 1] | checkpoint | higher
        1 where nothing is missing.
        = 1 / (1 + n) with n files or tensors missing
    rldk/checkpoint/part/finite | score in [0, 1] | checkpoint | higher
        1 where every tensor holds numbers only.
        = 0 with a tensor that holds NaN or infinity, else 1; absent where not all was read
    rldk/checkpoint/part/similar | score in [0, 1] | checkpoint | higher
        Whether the weights point where the previous checkpoint's do.
        = cosine of all matrices (where there are none, of all weights) with the previous checkpoint's, at least 0
    rldk/checkpoint/part/balanced | score in [0, 1] | checkpoint | higher
        Whether the layers have kept their norms since the previous checkpoint.
        = smallest over layers of min(r, 1 / r), r = |W| / |W_previous|: a layer at 100 times its norm gives 0.01

The last two are of the effective weights where an adapter was saved, so that they compare with those of full training.
A part that cannot be known is left out, and without a part there is no score.

The score says whether a checkpoint can be used and fits the one before it. How good the policy is it does not know.
"""

from __future__ import annotations

from typing import Literal

from rldk_tracking.checkpoint.findings import Scan

LOW = 0.5
"""A score below this is a warning: a layer at twice its norm, weights at 60 degrees to what they were."""
PARTS = ("intact", "complete", "finite", "similar", "balanced")


def parts(found: Scan) -> dict[str, float]:
    """The parts of the score that are known."""
    corrupt = sum(problem.kind == "corrupt" for problem in found.problems)
    lacking = sum(problem.kind == "incomplete" for problem in found.problems)
    known = {"intact": float(corrupt == 0), "complete": 1.0 / (1.0 + lacking)}
    if found.nonfinite:
        known["finite"] = 0.0
    elif found.tensors and not found.unread:
        known["finite"] = 1.0
    drift = found.drift("previous", matrices=True) or found.drift("previous")
    if drift is not None and drift.cosine is not None:
        known["similar"] = max(0.0, drift.cosine)
    ratios = list(norm_ratios(found, "previous").values())
    if ratios:
        known["balanced"] = min(min(ratio, 1.0 / ratio) if ratio > 0 else 0.0 for ratio in ratios)
    return known


def is_usable(found: Scan) -> bool:
    """Whether it was read whole, lacks nothing and holds numbers only. What was not read is not known to be usable."""
    known = parts(found)
    return known["intact"] == known["complete"] == known.get("finite") == 1.0


def score(known: dict[str, float]) -> float | None:
    """The lowest part, None without any."""
    return min(known.values(), default=None)


def verdict(found: Scan) -> Literal["healthy", "warning", "critical", "unknown"]:
    """ "critical" where it cannot be used, "warning" where something is wrong or it is far from what it was, "unknown"
    where nothing is wrong with what was read, and not every weight was."""
    known = parts(found)
    if known["intact"] == 0 or known.get("finite") == 0:
        return "critical"
    low = (score(known) or 0.0) < LOW
    if found.problems or low or found.unchanged("previous"):
        return "warning"
    return "healthy" if "finite" in known else "unknown"


def norm_ratios(found: Scan, label: str) -> dict[str, float]:
    """Layer to its norm over what it was in the other checkpoint; layers that were zero there, or that hold what
    is no number in one of the two, have none."""
    ratios = {}
    for layer in found.layers():
        drift = found.drift(label, layer)
        if drift is not None and drift.norm_ratio is not None:
            ratios[layer] = drift.norm_ratio
    return ratios
