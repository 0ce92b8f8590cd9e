"""The definition by which W&B draws heat-maps."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from rldk_tracking.charts.spec import GRADIENTS, REWARDS
from rldk_tracking.charts.vega import DEFINITION, chart_id, define, panel, table_of


class RefusedByServerError(Exception):
    """Stands for what W&B's API raises."""


def wandb_that(answer: Any) -> Any:
    def create_custom_chart(**given: Any) -> str:
        if isinstance(answer, Exception):
            raise answer
        return f"{given['entity']}/{given['name']}"

    return SimpleNamespace(Api=lambda: SimpleNamespace(create_custom_chart=create_custom_chart))


def test_the_definition_reads_the_table_that_the_panel_names() -> None:
    text = json.dumps(DEFINITION)
    made = panel(SimpleNamespace(CustomChart=lambda **given: given), "team/chart", REWARDS)
    assert set(re.findall(r"\$\{field:(\w+)\}", text)) == set(made["chart_fields"])
    assert set(re.findall(r"\$\{string:(\w+)\}", text)) == set(made["chart_strings"])
    assert DEFINITION["data"] == {"name": "wandb"}
    assert made["query"] == {"summaryTable": {"tableKey": table_of(REWARDS)}}


def test_without_the_definition_the_picture_is_shown() -> None:
    made = panel(SimpleNamespace(MediaBrowser=lambda **given: given), None, GRADIENTS)
    assert made["media_keys"] == [GRADIENTS]


@pytest.mark.parametrize(
    ("answer", "known"),
    [
        (None, True),
        (RefusedByServerError("a chart of that name already exists"), True),
        (RefusedByServerError("permission denied"), False),
    ],
)
def test_what_the_server_answers(answer: Any, known: bool) -> None:
    found = define(wandb_that(answer), "team", (RefusedByServerError,))
    assert found == (chart_id("team") if known else None)


def test_other_faults_are_let_out() -> None:
    with pytest.raises(KeyError):
        define(wandb_that(KeyError("x")), "team", (RefusedByServerError,))
