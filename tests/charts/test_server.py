"""What is known of an MLflow server."""

from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.charts.server import is_server, server_version, shows_views


@pytest.mark.parametrize(
    ("version", "shown"),
    [("3.15.0", True), ("3.17.2", True), ("4.0.0", True), ("3.14.9", False), ("2.22.0", False), (None, True)],
)
def test_which_mlflow_shows_views(version: str | None, shown: bool) -> None:
    assert shows_views(version) is shown


def test_the_version_of_a_server(old_server: str, old_pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_version(old_server) == "3.8.1"
    monkeypatch.setattr(old_pages, "version", "<html>a proxy's page</html>")
    assert server_version(old_server) is None
    monkeypatch.setattr(old_pages, "version", "3.17.2")
    monkeypatch.setattr(old_pages, "status", 401)
    assert server_version(old_server) is None
    assert server_version("http://127.0.0.1:9") is None


def test_what_a_server_is() -> None:
    assert is_server("https://mlflow.example.org")
    assert not is_server("sqlite:///mlflow.db")
    assert not is_server("databricks")
