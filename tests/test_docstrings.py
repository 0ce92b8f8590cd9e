"""Every public class and function has an example in its docstring, which runs and gives what stands there."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import transformers.integrations.integration_utils  # noqa: F401  prints once, where W&B is offline

import rldk_tracking

NAMES = sorted(set(rldk_tracking.__all__) - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_its_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = getattr(rldk_tracking, name)
    found = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    assert sum(len(test.examples) for test in found) > 0, f"{name} has no example"
    printed: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in found:
        runner.run(test, out=printed.append)
    assert runner.failures == 0, "".join(printed)
