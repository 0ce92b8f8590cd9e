from __future__ import annotations

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.health.catalogue import RULES


def test_the_page_of_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "kl.high"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("kl.high (warning)")
    assert "rldk/kl/" in page


def test_without_a_rule_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RULES)


def test_a_rule_that_is_not_there_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "kl.hihg"]) == 2
    said = capsys.readouterr()
    assert "kl.high" in said.err and not said.out


@pytest.mark.parametrize("name", ["KL.HIGH", " kl.high", "Kl.High"])
def test_capitals_do_not_matter(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    assert capsys.readouterr().out.startswith("kl.high (warning)")
