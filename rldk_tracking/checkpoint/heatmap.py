"""Layers by steps as a picture: an SVG document without scripts, fonts or files from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

CELL_HEIGHT, WIDTH, LEFT, TOP, BOTTOM = 14, 760, 230, 34, 24
LOW, HIGH = (247, 251, 255), (8, 48, 107)
UNKNOWN = "#dddddd"
BROKEN = "#d62728"


def heatmap(title: str, columns: Mapping[int, Mapping[str, float]]) -> str:
    """One row a layer, one column a step, darker for larger.

    Args:
        title: what the numbers are.
        columns: step to layer to value. A layer without a value in a step is grey, NaN is red. The scale is
            logarithmic between the smallest and the largest value above 0.
    """
    steps = sorted(columns)
    layers = list(dict.fromkeys(layer for step in steps for layer in columns[step]))
    if not layers:
        return ""
    shown = [value for step in steps for value in columns[step].values() if math.isfinite(value) and value > 0]
    low, high = (math.log10(min(shown)), math.log10(max(shown))) if shown else (0.0, 0.0)
    width = (WIDTH - LEFT - 8) / len(steps)
    height = TOP + CELL_HEIGHT * len(layers) + BOTTOM
    scale = f"{10**low:.2g} to {10**high:.2g}" if shown else "all 0"
    parts = [f'<text x="8" y="18" font-size="13">{escape(title)} ({scale})</text>']
    for row, layer in enumerate(layers):
        y = TOP + row * CELL_HEIGHT
        name = layer if len(layer) <= 34 else "..." + layer[-31:]
        parts.append(f'<text x="{LEFT - 6}" y="{y + 11}" font-size="10" text-anchor="end">{escape(name)}</text>')
        for column, step in enumerate(steps):
            value = columns[step].get(layer)
            label = "no value" if value is None else f"{value:.3g}"
            parts.append(
                f'<rect x="{LEFT + column * width:.1f}" y="{y}" width="{width:.1f}" height="{CELL_HEIGHT}" '
                f'fill="{_colour(value, low, high)}"><title>{escape(layer)}, step {step}: {label}</title></rect>'
            )
    for column in sorted({0, len(steps) // 2, len(steps) - 1}):
        x = LEFT + (column + 0.5) * width
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" font-size="10" text-anchor="middle">{steps[column]}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _colour(value: float | None, low: float, high: float) -> str:
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return BROKEN
    share = 0.0
    if value > 0:
        share = (math.log10(value) - low) / (high - low) if high > low else 1.0
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(LOW, HIGH, strict=True))
