"""Every series that there is: what it means, its unit, how it is computed, and which way is better."""

from __future__ import annotations

from rldk_tracking.keys.catalogue import CATALOGUE, lookup, misspelt
from rldk_tracking.keys.key import Direction, Key, Reduce, Source

__all__ = ["CATALOGUE", "Direction", "Key", "Reduce", "Source", "lookup", "misspelt"]
