"""Typed views of the latest row, for users who want `metrics.kl` rather than a dictionary of series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

S = TypeVar("S", bound="Snapshot")


def of(key: str) -> Any:
    """A field that shows one series; None until the series has a value."""
    return field(default=None, metadata={"key": key})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The latest values of some series. A value that was never measured is None, never a number.

    Attributes:
        step: the global step of the latest row.
    """

    step: int | None = None

    @classmethod
    def from_row(cls: type[S], step: int | None, row: Mapping[str, float]) -> S:
        """Take from a row what this view shows."""
        values = {f.name: row.get(f.metadata["key"]) for f in fields(cls) if "key" in f.metadata}
        return cls(step=step, **values)

    def to_dict(self) -> dict[str, float | int | None]:
        """Field name to value, None where it was never measured."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
