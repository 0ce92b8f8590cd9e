"""The Jupyter kernel of a line of the table runs cells, and is interrupted in them."""

from __future__ import annotations

from pathlib import Path

from tests.faults.bench import Line
from tests.faults.shared_folders import Notebook, summed


def test_cells_of_a_kernel_that_is_interrupted(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    try:
        cell = "import time\nprint('step 3 0.0', flush=True)\ntime.sleep(60)"
        assert notebook.run(cell, 3) == ("step 3 0.0\n", "KeyboardInterrupt")
        assert notebook.run("print(time.__name__)") == ("time\n", None)
    finally:
        notebook.close()


def test_one_line_for_several_trainings() -> None:
    lines = [Line("f", 5, 5, 4, 1, 0, 1.0, 2.0, 3.0, ("a",)), Line("f", 7, 7, 7, 0, 2, 1.5, 1.8, 0.5)]
    expected = Line("f", 12, 12, 11, 1, 2, 1.5, 2.0, 0.5, ("a", "b"))
    assert summed(lines, {"b": False, "c": True}) == expected
