"""The catalogue on the terminal holds exactly the catalogue."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rldk_tracking.cli import keys
from rldk_tracking.cli.main import main
from rldk_tracking.metrics.keys import CATALOGUE


def test_the_command_imports_no_torch() -> None:
    code = (
        "import sys; from rldk_tracking.cli.main import main; main(['keys', 'kl']); assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("rldk/kl/"), said.stderr


def test_json_is_the_whole_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == sorted(CATALOGUE)
    assert all(row["meaning"] for row in rows)


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_every_name_appears_once(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "--format", form]) == 0
    shown = capsys.readouterr().out
    marks = {"table": "{}  [", "markdown": "| `{}` |"}
    for name in CATALOGUE:
        assert shown.count(marks[form].format(name)) == 1, name


def test_markdown_rows_have_as_many_cells_as_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    cells = {line.replace("\\|", "").count("|") for line in lines}
    assert cells == {len(keys.COLUMNS) + 1}


def test_a_prefix_selects_with_and_without_the_namespace() -> None:
    assert keys.select("kl") == keys.select("rldk/kl")
    names = [key.name for key in keys.select("kl/")]
    assert names == sorted(name for name in CATALOGUE if name.startswith("rldk/kl/"))
    assert len(names) > 3


def test_an_unknown_prefix_is_code_one_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "no-such-group"]) == 1
    said = capsys.readouterr()
    assert "no-such-group" in said.err and not said.out


def test_a_key_is_shown_with_the_file_that_computes_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keys", "kl/ref_k2"])
    assert capsys.readouterr().out == (
        "rldk/kl/ref_k2  [nats per token]\n"
        "    The same by Schulman's second estimator: biased, of low variance.\n"
        "    formula: mean over tokens of d^2 / 2\n"
        "    source: rollout, in rldk_tracking/metrics/kl.py\n"
        "    direction: lower\n"
    )
