"""What a scan found in a checkpoint, and the same as plain data, to travel between processes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.entries import Entry
from rldk_tracking.checkpoint.integrity import Problem
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
        adapter_ratio: of that to the weights it changes, where the reference holds them.
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
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @property
    def nonfinite(self) -> list[str]:
        """Tensors with a NaN or an infinity."""
        return [name for name, found in self.tensors.items() if not found.finite]

    def drift(self, label: str, layer: str | None = None, *, matrices: bool = False) -> Drift | None:
        """Of all tensors or of one layer's, from the checkpoint with this label; None without a common tensor.

        With `matrices`, of those with at least two dimensions: the gains of normalisation layers, all near 1, are much
        the same in any two models.
        """
        if label not in self.compared:
            return None
        index = self.compared.index(label)
        parts = [
            found.drift[index]
            for name, found in self.tensors.items()
            if len(found.drift) > index
            and (layer is None or layer_of(name) == layer)
            and (not matrices or len(self.entries[name].shape) > 1)
        ]
        known = [part for part in parts if part is not None]
        if not known:
            return None
        return Drift(
            distance=math.sqrt(sum(part.distance**2 for part in known)),
            norm=math.sqrt(sum(part.norm**2 for part in known)),
            product=sum(part.product for part in known),
            own=math.sqrt(sum(part.own**2 for part in known)),
        )

    def layers(self) -> dict[str, list[TensorStatistics]]:
        """Layer to its tensors, in the order of the file."""
        found: dict[str, list[TensorStatistics]] = {}
        for name, statistics in self.tensors.items():
            found.setdefault(layer_of(name), []).append(statistics)
        return found

    def unchanged(self, label: str) -> bool | None:
        """Whether every tensor is that of the other checkpoint; None where nothing can be compared."""
        drift = self.drift(label)
        if drift is None and label not in self.differing:
            return None
        return (drift is None or drift.distance == 0.0) and self.differing.get(label, 0) == 0

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
    return int(number) if prefix == "checkpoint" and number.isdigit() else None


def _statistics(fields: dict[str, Any]) -> TensorStatistics:
    drift = tuple(None if part is None else Drift(**part) for part in fields["drift"])
    return TensorStatistics(**{**fields, "drift": drift})
