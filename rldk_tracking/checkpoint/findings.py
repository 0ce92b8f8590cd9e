"""What a scan found in a checkpoint, and the same as plain data, to travel between processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.adapter import is_part
from rldk_tracking.checkpoint.entries import RAW, Entry
from rldk_tracking.checkpoint.integrity import Problem, number_in
from rldk_tracking.checkpoint.statistics import Drift, TensorStatistics
from rldk_tracking.metrics.layer_names import layer_of

Level = Literal["light", "standard", "full"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass
class Scan:
    """What was found.

    Attributes:
        path: the checkpoint.
        step: from a folder name `checkpoint-<step>`, None without one.
        compared: labels of the other checkpoints, in the order of each tensor's drifts.
        entries: the tensors that are there.
        tensors: statistics of those with floating numbers.
        differing: label to how many tensors of other than floating numbers (quantised weights, masks) are not, byte by
            byte, those of that checkpoint; without such tensors in both the label is absent.
        problems: what is wrong with the files.
        nbytes: size of the folder.
        seconds: how long the scan took.
        adapter_norm: of the change that a LoRA adapter makes, None for other checkpoints.
        adapter_ratio: of that to the weights it changes, where the base model's are known.
        changes: of a LoRA adapter, adapted module to the drifts of its effective weights W + scale * B A, as in
            `TensorStatistics.drift`.
        unknown: why nothing is said of how far the effective weights have moved; None where it is known.
        vectors: right singular vectors, to start the next scan from.
    """

    path: Path
    step: int | None = None
    compared: tuple[str, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    tensors: dict[str, TensorStatistics] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    nbytes: int = 0
    seconds: float = 0.0
    adapter_norm: float | None = None
    adapter_ratio: float | None = None
    changes: dict[str, tuple[Drift | None, ...]] = field(default_factory=dict)
    unknown: str | None = None
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @property
    def nonfinite(self) -> list[str]:
        """Tensors with a NaN or an infinity."""
        return [name for name, found in self.tensors.items() if not found.finite]

    @property
    def unread(self) -> list[str]:
        """Tensors of a type that this package does not read."""
        return [name for name, entry in self.entries.items() if entry.dtype not in RAW]

    def drift(self, label: str, layer: str | None = None, *, matrices: bool = False) -> Drift | None:
        """Of all weights or of one layer's, from the checkpoint with this label; None without a common tensor.

        Of a LoRA adapter those are the effective weights: its two matrices alone can change without them.

        With `matrices`, of those with at least two dimensions: the gains of normalisation layers, all near 1, are much
        the same in any two models.
        """
        if label not in self.compared or self.unknown is not None:
            return None
        at = self.compared.index(label)
        plain = {name: found.drift for name, found in self.tensors.items() if not is_part(name)}
        parts = [
            drifts[at]
            for name, drifts in (plain | self.changes).items()
            if (layer is None or layer_of(name) == layer)
            and (not matrices or name in self.changes or len(self.entries[name].shape) > 1)
        ]
        known = [part for part in parts if part is not None]
        return Drift.of_all(known) if known else None

    def stored(self, label: str, layer: str | None = None) -> Drift | None:
        """As `drift`, of the tensors as they are stored."""
        if label not in self.compared:
            return None
        at = self.compared.index(label)
        parts = [found.drift[at] for name, found in self.tensors.items() if layer is None or layer_of(name) == layer]
        known = [part for part in parts if part is not None]
        return Drift.of_all(known) if known else None

    def layers(self) -> dict[str, list[TensorStatistics]]:
        """Layer to its tensors, in the order of the file."""
        found: dict[str, list[TensorStatistics]] = {}
        for name, statistics in self.tensors.items():
            found.setdefault(layer_of(name), []).append(statistics)
        return found

    def unchanged(self, label: str) -> bool | None:
        """Whether every element is that of the other checkpoint, NaN where that has NaN; None where nothing can be
        compared."""
        stored = self.stored(label)
        if stored is None and label not in self.differing:
            return None
        return (stored is None or stored.same) and self.differing.get(label, 0) == 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the vectors: JSON-ready, since numbers that are not finite occur nowhere in a scan."""
        return {
            "path": str(self.path),
            "step": self.step,
            "compared": list(self.compared),
            "nbytes": self.nbytes,
            "seconds": self.seconds,
            "adapter_norm": self.adapter_norm,
            "adapter_ratio": self.adapter_ratio,
            "changes": {module: [_plain(part) for part in parts] for module, parts in self.changes.items()},
            "unknown": self.unknown,
            "differing": self.differing,
            "problems": [asdict(problem) for problem in self.problems],
            "entries": {
                name: [entry.dtype, list(entry.shape), str(entry.file), entry.start, entry.stop]
                for name, entry in self.entries.items()
            },
            "tensors": {name: asdict(statistics) for name, statistics in self.tensors.items()},
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Scan:
        """The scan that `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: the record is not one.
        """
        return cls(
            path=Path(record["path"]),
            step=record["step"],
            compared=tuple(record["compared"]),
            nbytes=int(record["nbytes"]),
            seconds=float(record["seconds"]),
            adapter_norm=record["adapter_norm"],
            adapter_ratio=record["adapter_ratio"],
            changes={module: _drifts(parts) for module, parts in record["changes"].items()},
            unknown=record["unknown"],
            differing={str(label): int(count) for label, count in record["differing"].items()},
            problems=[Problem(**fields) for fields in record["problems"]],
            entries={
                name: Entry(name, dtype, tuple(shape), Path(file), start, stop)
                for name, (dtype, shape, file, start, stop) in record["entries"].items()
            },
            tensors={name: _statistics(fields) for name, fields in record["tensors"].items()},
        )


def step_of(path: Path) -> int | None:
    """200 for `.../checkpoint-200`, None for other names."""
    prefix, _, number = path.name.rpartition("-")
    return number_in(number) if prefix == "checkpoint" else None


def _statistics(fields: dict[str, Any]) -> TensorStatistics:
    return TensorStatistics(**{**fields, "drift": _drifts(fields["drift"])})


def _drifts(parts: list[dict[str, Any] | None]) -> tuple[Drift | None, ...]:
    return tuple(None if part is None else Drift(**part) for part in parts)


def _plain(part: Drift | None) -> dict[str, Any] | None:
    return None if part is None else asdict(part)
