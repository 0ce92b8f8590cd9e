from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()


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


def test_the_page_of_a_rule_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: none\nrules:\n- id: team.slow\n  when: last('x') > 1\n  advice: [Look., Wait.]\n"
        "  page: {why: It is slow. So it is., causes: [The disk.], limit: Seen.}\n"
    )
    assert main(["explain", "team.slow", "--rules", str(path)]) == 0
    page = capsys.readouterr().out
    for words in ("It is slow. So it is.", "  - The disk.", "  - Look.\n  - Wait.", "comes from\n  Seen."):
        assert words in page
    assert main(["explain", "--rules", str(path)]) == 0
    assert capsys.readouterr().out.split() == ["team.slow", "warning", "It", "is", "slow."]


def test_rules_that_cannot_be_read_are_an_error_of_the_option(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--rules: .*none.yaml:1: there is no such file"):
        main(["explain", "--rules", str(tmp_path / "none.yaml")])
