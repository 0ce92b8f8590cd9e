"""What is left in the outputs of a notebook's cells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.history.formats.conftest import Reads


def table(*rows: tuple[Any, ...]) -> str:
    """As transformers draws it below its progress bar."""
    head, *lines = ["".join(f"<{tag}>{cell}</{tag}>" for cell in row) for tag, row in _tagged(rows)]
    body = "".join(f"<tr>\n{line}</tr>\n" for line in lines)
    inner = f"<thead>\n<tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div><progress value="9"></progress> [9/9]</div><table border="1" class="dataframe">{inner}</table><p>'


def _tagged(rows: tuple[tuple[Any, ...], ...]) -> list[tuple[str, tuple[Any, ...]]]:
    return [("td" if place else "th", row) for place, row in enumerate(rows)]


def notebook(*outputs: list[dict[str, Any]]) -> str:
    cells = [{"cell_type": "code", "source": ["train()"], "outputs": output} for output in outputs]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "x"}, *cells], "nbformat": 4, "metadata": {}})


def html(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/html": [text], "text/plain": ["<IPython.HTML>"]}}


def printed(*lines: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": [line + "\n" for line in lines]}


def test_a_table_of_training(reads: Reads) -> None:
    rows = ("Step", "Training Loss", "rewards / chosen", "reward"), (10, "0.500000", "-1.5", "No Log"), (20, 0.25, 2, 3)
    found = reads(notebook([printed("Loading")], [html(table(*rows))], [html(table(("a", "b"), (1, 2)))]))
    assert found.format == "notebook" and found.notes == ()
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (10, {"rldk/train/loss": 0.5, "rldk/preference/reward_chosen": -1.5}),
        (20, {"rldk/train/loss": 0.25, "rldk/preference/reward_chosen": 2.0, "rldk/reward/mean": 3.0}),
    ]


def test_printed_dictionaries_and_tables_are_several_runs(reads: Reads) -> None:
    first = html(table(("Step", "Training Loss"), (1, 0.5)))
    texts = printed("{'loss': 0.5, 'reward': 0.25, 'epoch': 0.1}", "", "{'loss': 0.5, 'reward': 0.5, 'epoch': 0.2}")
    text = notebook([first, html(table(("Step", "Training Loss"), (2, 0.5)))], [texts])
    found = reads(text)
    assert [entry.row["rldk/reward/mean"] for entry in found.entries] == [0.25, 0.5]
    assert found.notes[0].startswith("reading run cell3 of 3 in the file; also found cell2, cell2-2; '")
    assert [entry.step for entry in reads(text, "cell2-2").entries] == [2]


def test_a_notebook_without_outputs_says_so(reads: Reads) -> None:
    with pytest.raises(ValueError, match="without a table of training .* was it saved after the training"):
        reads(notebook([]))
