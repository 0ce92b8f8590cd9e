"""The text of a rule's page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """Why a rule is there, and what to do.

    Attributes:
        why: what goes wrong if nobody looks.
        causes: the likeliest first.
        try_first: the cheapest first.
        limit: where the limit comes from.
    """

    why: str
    causes: tuple[str, ...]
    try_first: tuple[str, ...]
    limit: str
