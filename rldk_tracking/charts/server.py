"""What is known of an MLflow server: whether there is one, its version, and whether its pages show saved views."""

from __future__ import annotations

import requests

SINCE = (3, 15)
"""The first MLflow whose pages show saved views."""


def is_server(place: str) -> bool:
    """Whether a tracking address is that of an MLflow server."""
    return place.startswith(("http://", "https://"))


def server_version(place: str) -> str | None:
    """The version of the server, whose pages they are; None where it does not say."""
    try:
        answer = requests.get(f"{place.rstrip('/')}/version", timeout=(3.05, 5), allow_redirects=False)
    except requests.exceptions.RequestException:
        return None
    version = answer.text.strip()
    return version if answer.ok and version[:1].isdigit() and len(version) < 40 else None


def shows_views(version: str | None) -> bool:
    """Whether an MLflow of this version shows saved views; one whose version is not known may."""
    if version is None:
        return True
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
    return numbers >= SINCE
