"""A scan as plain data, to travel between processes and into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rldk_tracking.checkpoint.entries import Entry
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.integrity import Problem
from rldk_tracking.checkpoint.statistics import Drift, TensorStatistics


def to_dict(found: Scan) -> dict[str, Any]:
    """JSON-ready; numbers that are not finite occur nowhere in a scan."""
    return {
        "path": str(found.path),
        "step": found.step,
        "compared": list(found.compared),
        "nbytes": found.nbytes,
        "seconds": found.seconds,
        "adapter_norm": found.adapter_norm,
        "adapter_ratio": found.adapter_ratio,
        "differing": found.differing,
        "problems": [asdict(problem) for problem in found.problems],
        "entries": {
            name: [entry.dtype, list(entry.shape), str(entry.file), entry.start, entry.stop]
            for name, entry in found.entries.items()
        },
        "tensors": {name: asdict(statistics) for name, statistics in found.tensors.items()},
    }


def from_dict(record: dict[str, Any]) -> Scan:
    """The scan that `to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError: the record is not one.
    """
    return Scan(
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


def merge(parts: Sequence[Scan]) -> Scan:
    """One scan out of the ranks' shares of the same checkpoint."""
    whole = parts[0]
    tensors = {name: statistics for part in parts for name, statistics in part.tensors.items()}
    whole.tensors = {name: tensors[name] for name in whole.entries if name in tensors}
    whole.problems = list(dict.fromkeys(problem for part in parts for problem in part.problems))
    labels = dict.fromkeys(label for part in parts for label in part.differing)
    whole.differing = {label: sum(part.differing.get(label, 0) for part in parts) for label in labels}
    whole.seconds = max(part.seconds for part in parts)
    return whole


def _statistics(fields: dict[str, Any]) -> TensorStatistics:
    drift = tuple(None if part is None else Drift(**part) for part in fields["drift"])
    return TensorStatistics(**{**fields, "drift": drift})
