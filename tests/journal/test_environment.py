from __future__ import annotations

import os
from pathlib import Path

import pytest

from rldk_tracking.journal.environment import ENVIRONMENT, delivering


def test_what_is_missing_is_set_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with pytest.raises(KeyError), delivering():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_ALLOW_HTTP_REDIRECTS"] == "false"
        raise KeyError
    assert not [name for name in ENVIRONMENT if name in os.environ and name != "MLFLOW_HTTP_REQUEST_TIMEOUT"]


def test_mlflow_has_these_settings() -> None:
    """A name that it does not know would do nothing."""
    variables = pytest.importorskip("mlflow.environment_variables", reason="needs mlflow")
    source = Path(variables.__file__).read_text()
    for name in ENVIRONMENT:
        assert not name.startswith("MLFLOW") or f'"{name}"' in source
