"""What a LoRA adapter makes of the weights: W + scale * B A, and how far that is from what another one makes of them.

The two matrices alone say nothing of it: with A twice and B half as large the weights are the same, and matrices that
begin at zero move by many times their norm while the weights hardly move (Hu et al. 2022, arXiv:2106.09685). `scale` is
alpha / r, or alpha / sqrt(r) (rank-stabilised, Kalajdzievski 2023, arXiv:2312.03732), with alpha as in PEFT's
`alpha_pattern` and r from the matrices themselves. Nothing of the size of W is ever formed: with r the rank,
<P Q, P' Q'> = sum of (P^T P') * (Q Q'^T), two matrices of r x r.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.entries import decode
from rldk_tracking.checkpoint.files import DamagedFileError
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.statistics import BLOCK, Drift

PREFIX = "base_model.model."
PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))
"""How the names of A and B end, of linear layers and convolutions, and of embeddings."""
KEPT_BASE = ".base_layer.weight"
"""How the name of base weights that lie beside the matrices ends."""
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` under which the base model's weights stay as they are; PiSSA's, for one, do not."""
NO_BASE = "the base model's weights are not at hand (name their folder as the reference)"
LARGEST_ALPHA = 1e9
_LITERAL = re.compile(r"\^?[\w.]+")

Matrix = NDArray[np.float64]


class UnknownChangeError(ValueError):
    """What an adapter makes of the weights cannot be told. The message says why."""


@dataclass(frozen=True)
class LowRank:
    """A change `left @ right` of weights as they are stored, as (rows, rest).

    Attributes:
        left: (rows, r), the adapter's scale in it.
        right: (r, columns).
    """

    left: Matrix
    right: Matrix

    @property
    def square(self) -> float:
        """|left @ right|_F^2."""
        return max(0.0, self.inner(self))

    def inner(self, other: LowRank) -> float:
        """The inner product with another change of the same weights."""
        return float(np.sum((self.left.T @ other.left) * (self.right @ other.right.T)))

    def minus(self, other: LowRank) -> LowRank:
        """The difference, as (L - L') R + L' (R - R'), in which small differences do not cancel."""
        if self.left.shape != other.left.shape:
            return LowRank(np.hstack([self.left, -other.left]), np.vstack([self.right, other.right]))
        return LowRank(
            np.hstack([self.left - other.left, other.left]), np.vstack([self.right, self.right - other.right])
        )


@dataclass
class AdapterChange:
    """What an adapter does.

    Attributes:
        norm: |scale * B A|_F over all adapted modules; None where it is not known, or nothing is adapted.
        ratio: of that to the norm of the weights that are adapted.
        drifts: adapted module to how far its weights are from what they are under each other checkpoint; None for one
            that does not adapt it.
        unknown: why there are no drifts; None where there are.
    """

    norm: float | None = None
    ratio: float | None = None
    drifts: dict[str, tuple[Drift | None, ...]] = field(default_factory=dict)
    unknown: str | None = None


def factor_of(name: str) -> str | None:
    """The module of which a tensor is one of the adapter's two matrices; None for other tensors."""
    return next((name.removesuffix(end) for pair in PAIRS for end in pair if name.endswith(end)), None)


def is_part(name: str) -> bool:
    """Whether a tensor is a part of adapted weights, and says nothing of them by itself."""
    return factor_of(name) is not None or name.endswith(KEPT_BASE)


def measure_adapter(adapter: Checkpoint, others: Sequence[Checkpoint], base: Checkpoint | None) -> AdapterChange:
    """What an adapter does.

    Args:
        adapter: opened.
        others: what to compare with: adapters of the same base model, or the base model itself.
        base: the model whose weights are adapted; None where it is not known.
    """
    found = AdapterChange()
    modules = list(dict.fromkeys(module for name in adapter.entries if (module := factor_of(name)) is not None))
    try:
        _check(adapter)
        square = base_square = 0.0
        for module in modules:
            own = change_of(adapter, module)
            square += own.square
            if base is not None and found.unknown is None:
                place = _base_weights(adapter, base, module, own)
                if place is None:
                    found.unknown = f"the base model holds no weights that fit {module.removeprefix(PREFIX)}"
                    continue
                earlier = [_earlier(other, module, own, base) for other in others]
                weights, found.drifts[module] = _drifts(own, earlier, *place)
                base_square += weights
        if modules:
            found.norm = math.sqrt(square)
            found.unknown = found.unknown or (NO_BASE if base is None else None)
        if found.unknown is None and base_square > 0:
            found.ratio = math.sqrt(square / base_square)
    except (UnknownChangeError, DamagedFileError) as error:
        found.norm, found.unknown = None, str(error)
    if found.unknown is not None:
        found.drifts.clear()
    return found


def change_of(adapter: Checkpoint, module: str) -> LowRank:
    """scale * B A of one module, in the order in which the base model stores its weights.

    Raises:
        UnknownChangeError: its matrices, or its scale, are not to be had.
        DamagedFileError: the file has become shorter since it was opened.
    """
    down_name, up_name = next(
        ((module + a, module + b) for a, b in PAIRS if module + a in adapter.entries), (module + PAIRS[0][0], "")
    )
    down, up = _matrix(adapter, down_name), _matrix(adapter, up_name)
    if down is None or up is None or up.shape[1] != len(down) or len(down) == 0:
        raise UnknownChangeError(f"the two matrices of {module.removeprefix(PREFIX)} are not both there, or do not fit")
    up = up * _scale(adapter.config, module.removeprefix(PREFIX), len(down))
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise UnknownChangeError(f"the matrices of {module.removeprefix(PREFIX)} hold NaN or infinity")
    is_transposed = down_name.endswith(PAIRS[1][0]) or bool(adapter.config.get("fan_in_fan_out"))
    return LowRank(down.T, up.T) if is_transposed else LowRank(up, down)


def _check(adapter: Checkpoint) -> None:
    """Raises UnknownChangeError for adapters whose effect is another than adding scale * B A to known weights."""
    config = adapter.config
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights", True)
    if kind != "LORA":
        raise UnknownChangeError(f"adapters of the type {str(kind)[:40]} are not measured")
    if config.get("use_dora") or any("lora_magnitude_vector" in name for name in adapter.entries):
        raise UnknownChangeError("DoRA scales the adapted weights once more, which is not measured")
    if start not in KEEPS_BASE:
        raise UnknownChangeError(f"init_lora_weights={str(start)[:40]!r} has changed the base model's weights")
    if any(name.endswith(".lora_B.bias") for name in adapter.entries):
        raise UnknownChangeError("lora_bias changes the biases too, which is not measured")


def _drifts(
    own: LowRank, earlier: Sequence[LowRank | UnknownChangeError | None], base: Checkpoint, name: str
) -> tuple[float, tuple[Drift | None, ...]]:
    """|W|^2 of the base model's weights, and the drift from each earlier change of them."""
    known = [change for change in earlier if isinstance(change, LowRank)]
    square, (own_product, *products) = against_weights(base, name, [own, *known])
    if not math.isfinite(square):
        raise UnknownChangeError(f"{name} of the base model holds NaN or infinity")
    own_square = max(0.0, square + 2 * own_product + own.square)
    product_of = dict(zip(map(id, known), products, strict=True))
    found: list[Drift | None] = []
    for change in earlier:
        if change is None:
            found.append(None)
        elif isinstance(change, UnknownChangeError):
            found.append(Drift(0.0, 0.0, 0.0, 0.0, skipped=1))
        else:
            norm_square = max(0.0, square + 2 * product_of[id(change)] + change.square)
            distance = own.minus(change).square
            product = (own_square + norm_square - distance) / 2
            found.append(Drift(math.sqrt(distance), math.sqrt(norm_square), product, math.sqrt(own_square)))
    return square, tuple(found)


def _earlier(other: Checkpoint, module: str, own: LowRank, base: Checkpoint) -> LowRank | UnknownChangeError | None:
    """What another checkpoint makes of a module's weights; why that is not known; None where it leaves them alone."""
    if other is base:
        return LowRank(np.zeros((len(own.left), 1)), np.zeros((1, own.right.shape[1])))
    if not any(module + end in other.entries for end, _ in PAIRS):
        return None
    try:
        _check(other)
        change = change_of(other, module)
    except (UnknownChangeError, DamagedFileError) as error:
        return UnknownChangeError(str(error))
    fits = (len(change.left), change.right.shape[1]) == (len(own.left), own.right.shape[1])
    return change if fits else None


def _base_weights(adapter: Checkpoint, base: Checkpoint, module: str, change: LowRank) -> tuple[Checkpoint, str] | None:
    """Where the weights lie that a module adapts, and their name.

    PEFT saves adapted embeddings beside their matrices. Some models are saved without the first part of their names.
    """
    name = module.removeprefix(PREFIX)
    for checkpoint, candidate in (
        (adapter, f"{module}{KEPT_BASE}"),
        (base, f"{name}.weight"),
        (base, f"{name.partition('.')[2]}.weight"),
    ):
        entry = checkpoint.entries.get(candidate)
        if entry is not None and checkpoint.has_numbers(candidate) and len(entry.shape) > 1 and entry.numel > 0:
            rows = entry.shape[0]
            if (rows, entry.numel // rows) == (len(change.left), change.right.shape[1]):
                return checkpoint, candidate
    return None


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern")
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        # PEFT takes it for a regular expression; one of a stranger's is not run.
        if _LITERAL.fullmatch(pattern) is None:
            raise UnknownChangeError("alpha_pattern holds regular expressions")
        plain = pattern.removeprefix("^")
        if module == plain or (plain == pattern and module.endswith(f".{plain}")):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not -LARGEST_ALPHA < alpha < LARGEST_ALPHA:
        raise UnknownChangeError("adapter_config.json gives no lora_alpha")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matrix(checkpoint: Checkpoint, name: str) -> Matrix | None:
    """A whole matrix, as (rows, rest): those of an adapter are small."""
    entry = checkpoint.entries.get(name)
    if entry is None or len(entry.shape) < 2 or not checkpoint.has_numbers(name) or entry.numel == 0:
        return None
    blocks = list(checkpoint.blocks(name, entry.numel))
    if not blocks:
        return None
    values = decode(blocks[0], entry.dtype, np.empty(entry.numel, np.float32))
    return values.reshape(entry.shape[0], -1).astype(np.float64)


def against_weights(weights: Checkpoint, name: str, changes: Sequence[LowRank]) -> tuple[float, list[float]]:
    """|W|_F^2 of a stored matrix, and its inner product with each change, in one pass over blocks of whole rows.

    Args:
        weights: holds the matrix.
        name: of the tensor, as (rows, rest).
        changes: all of its shape.

    Raises:
        DamagedFileError: the file has become shorter since it was opened.
    """
    entry = weights.entries[name]
    columns = entry.numel // entry.shape[0]
    rows = max(1, BLOCK // columns)
    buffer = np.empty(rows * columns, dtype=np.float32)
    left = np.hstack([change.left for change in changes])
    right = np.vstack([change.right for change in changes]).T.astype(np.float32)
    square, sums, row = 0.0, np.zeros(left.shape[1]), 0
    for raw in weights.blocks(name, rows * columns):
        values = decode(raw, entry.dtype, buffer)
        square += float(np.dot(values, values))
        image = values.reshape(-1, columns) @ right
        sums += np.sum(image * left[row : row + len(image)], axis=0)
        row += len(image)
    ends = np.cumsum([change.left.shape[1] for change in changes])
    products = [float(np.sum(part)) for part in np.split(sums, ends[:-1])]
    return (square, products) if math.isfinite(square) else (math.nan, products)
