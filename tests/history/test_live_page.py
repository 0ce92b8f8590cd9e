"""The report's page: it follows the journal, and answers this machine's browser only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from rldk_tracking.health.alert import Alert
from rldk_tracking.history.live_page import REFRESH_S, LivePage
from tests.journal.conftest import row, started


@pytest.fixture
def page(tmp_path: Path) -> Iterator[LivePage]:
    made = LivePage(tmp_path, 0)
    yield made
    made.stop()


def test_it_follows_a_training(page: LivePage, tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    none = requests.get(page.address, timeout=10)
    assert none.status_code == 503 and "journal" in none.text
    written = started(tmp_path / "_rldk")
    written.row(1, row(1), [])
    first = requests.get(page.address, timeout=60)
    assert first.status_code == 200 and f"<title>{tmp_path.name}" in first.text
    assert first.headers["Refresh"] == str(REFRESH_S) and "kl.high" not in first.text
    assert requests.get(page.address, timeout=60).text == first.text
    written.row(2, row(2), [make_alert(step=2, first_step=2)])
    assert "Warning: kl.high since step 2" in requests.get(page.address, timeout=60).text
    written.close()


def test_strangers_get_nothing(page: LivePage, tmp_path: Path) -> None:
    written = started(tmp_path / "_rldk")
    written.row(1, row(1), [])
    written.close()
    assert requests.get(page.address, headers={"Host": "evil.example.org"}, timeout=10).status_code == 403
    assert requests.get(f"{page.address}_rldk/run.jsonl", timeout=10).status_code == 404
    localhost = requests.get(page.address, headers={"Host": f"localhost:{page.port}"}, timeout=10)
    assert localhost.status_code == 200


def test_it_stops(tmp_path: Path) -> None:
    page = LivePage(tmp_path, 0)
    page.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(page.address, timeout=5)
