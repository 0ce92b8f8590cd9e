"""Every trainer of the newest TRL is read with its own numbers, and docs/trainers/trl.md says what of it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import trl

from tests.runs import trl_table
from tests.runs.trl_table import Seen, page, seen
from tests.runs.trl_trainers import ELSEWHERE, TRAINERS, trainer_classes

PAGE = trl_table.PAGE.read_text(encoding="utf-8")
NEWEST = re.findall(r"Every trainer of TRL (\d+\.\d+)", PAGE)[0]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        tuple(map(int, trl.__version__.split(".")[:2])) < tuple(map(int, NEWEST.split("."))),
        reason="the page is of a newer TRL",
    ),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seen]:
    """What was read of a trainer, which is trained once."""
    found: dict[str, Seen] = {}

    def of(trainer: str) -> Seen:
        if trainer not in found:
            found[trainer] = seen(trainer, tmp_path_factory.mktemp("trainer"))
        return found[trainer]

    return of


def test_every_trainer_is_known() -> None:
    assert set(trainer_classes()) == {*TRAINERS, *ELSEWHERE}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_number_differs_from_the_trainers_own(trainer: str, result: Callable[[str], Seen]) -> None:
    found = result(trainer)
    assert found.differing == [] and found.compared >= 9
    assert "rldk/train/loss" in found.log


def test_ktos_kl_is_none_to_the_reference(result: Callable[[str], Seen]) -> None:
    found = result("KTOTrainer")
    assert "kl" in found.others and not [key for key in (*found.log, *found.tensors) if key.startswith("rldk/kl/")]


def test_the_page_says_what_is_read(result: Callable[[str], Seen]) -> None:
    """Its sentences aside, which quote the release."""
    if not trl.__version__.startswith(NEWEST):
        pytest.skip("the page is of an older TRL: make it anew")

    def told(text: str) -> list[str]:
        return [line.replace(trl.__version__, "") for line in text.splitlines() if not line.startswith("(")]

    made = page([result(trainer) for trainer in TRAINERS])
    version = re.findall(r"Every trainer of TRL (\S+),", PAGE)[0]
    assert told(made) == told(PAGE.replace(version, trl.__version__)), "python -m tests.runs.trl_table"
