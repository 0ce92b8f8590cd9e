"""The notebooks run from top to bottom, within a minute each, and show what they speak of."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

nbclient = pytest.importorskip("nbclient", reason="needs nbclient, ipykernel")
pytest.importorskip("ipykernel", reason="needs nbclient, ipykernel")
nbformat = pytest.importorskip("nbformat", reason="needs nbclient, ipykernel")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ROOT = NOTEBOOKS.parent
SECONDS = 60


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The notebook with its outputs, run by this very interpreter."""
    kernel = folder / "kernels" / "this"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "this", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=4 * SECONDS, kernel_name="this", resources={"metadata": {"path": str(folder)}}
    )
    stored = [bool(cell.get("outputs")) for cell in notebook.cells]
    before = processor_seconds()
    client.execute()
    assert processor_seconds() - before < SECONDS
    shown = [any(is_shown(output) for output in cell.get("outputs", ())) for cell in notebook.cells]
    assert [index for index, shows in enumerate(shown) if shows and not stored[index]] == [], "cells stored without"
    return notebook


def is_shown(output: Any) -> bool:
    """Whether a reader is to see it: no warnings, nor what transformers says of the tests' own environment."""
    return output.get("name") != "stderr" and not output.get("text", "").startswith("[INFO] Running in WANDB")


def processor_seconds() -> float:
    """Of all child processes that have ended, so that whatever else the machine does is not counted."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def text_of(notebook: Any) -> str:
    return "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )


def pictures(notebook: Any) -> int:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/svg+xml" in output.get("data", {}) for output in outputs)


def test_a_faulty_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed("read_a_run.ipynb", tmp_path, monkeypatch)
    text = text_of(notebook)
    assert "Finished, step 40." in text
    assert "first seen at step 2" in text, "the fault began at step 20, and an alert tells of it"
    assert pictures(notebook) >= 13
    assert "report.html:" in text


def test_rules_are_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = executed("calibrate_rules.ipynb", tmp_path, monkeypatch)
    text = text_of(notebook)
    assert text.count("false alarms in") == 6
    assert "false alarms in 0 of 3 runs" in text
    assert "RLDKCallback(overrides={'kl.high': {'threshold':" in text
    assert pictures(notebook) == 1


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_what_is_kept_has_no_traces_of_a_machine(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    text = path.read_text()
    assert "/tmp/" not in text
    assert "/home/" not in text
    assert "Traceback" not in text
