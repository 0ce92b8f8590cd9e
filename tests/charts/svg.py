"""What stands in a picture that matplotlib has drawn: its texts, and the groups of a name with their points."""

from __future__ import annotations

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def texts(picture: str) -> list[str]:
    """Of labels, ticks and titles within the picture, in the order in which they are drawn."""
    return [element.text or "" for element in parsed(picture).iter(f"{SVG}text")]


def groups(picture: str) -> list[str]:
    """Names of everything drawn that has one: series, limits, shades, lanes."""
    names = [group.attrib.get("id", "") for group in parsed(picture).iter(f"{SVG}g")]
    return [name for name in names if name and not re.fullmatch(r"[a-z0-9]+_\d+", name)]


def points(picture: str, name: str) -> list[list[tuple[float, float]]]:
    """Corners of every path of the groups of a name."""
    found = []
    for group in parsed(picture).iter(f"{SVG}g"):
        if group.attrib.get("id") == name:
            for path in group.iter(f"{SVG}path"):
                numbers = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.attrib["d"])
                found.append([(float(x), float(y)) for x, y in numbers])
    return found


def style(picture: str, name: str) -> str:
    """That of the first path of a group."""
    group = next(group for group in parsed(picture).iter(f"{SVG}g") if group.attrib.get("id") == name)
    return next(group.iter(f"{SVG}path")).attrib["style"]
