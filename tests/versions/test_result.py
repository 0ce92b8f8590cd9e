"""The page of TRL's releases shows what the result files say, and that nothing is missing in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.versions.result import PAGE, Result, Training, page, results, tables

WHOLE = Training(97, 208, [], [], [])
LACKS = Training(96, 204, [], ["rldk/policy/entropy"], ["no rldk/policy/entropy"])
SILENT = Training(95, 200, ["rldk/kl/ref_k1 at step 1 is 2, the trainer's 1"], ["rldk/policy/entropy"], [])
VERSIONS = {"trl": "0.19.1", "transformers": "4.53.1", "Python": "3.11.7", "torch": "2.13.0"}
FOUND = Result("2026-11-28", VERSIONS, {"PPO": WHOLE, "GRPO": LACKS, "DPO": SILENT})


def test_the_page_is_made_from_the_result_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, results()), "run: python -m tests.versions.result"


@pytest.mark.parametrize("one", results(), ids=lambda one: one.versions["trl"])
def test_no_number_differs_and_what_is_missing_was_said(one: Result) -> None:
    kinds = {name.partition(",")[0] for name in one.trainings}
    assert kinds >= {"GRPO", "RLOO", "DPO"}
    for name, training in one.trainings.items():
        assert training.compared > 0 and training.differing == [], name
        assert bool(training.missing) == bool(training.said), name
    (alert,) = one.trainings["GRPO, in MLflow's store"].alerts
    assert "KL to the reference" in alert


def test_tables() -> None:
    text = tables([FOUND])
    assert "| 0.19.1 | 4.53.1 | PPO | 97 | 0 | none needed | 208 | 0 | 2026-11-28 |" in text
    assert "| 0.19.1 | 4.53.1 | GRPO | 96 | 1 | (1) | 204 | 0 | 2026-11-28 |" in text
    assert "| 0.19.1 | 4.53.1 | DPO | 95 | 1 | none | 200 | 1 | 2026-11-28 |" in text
    assert "With Python 3.11.7 and torch 2.13.0." in text
    assert "1. “no rldk/policy/entropy” (TRL 0.19.1, GRPO)" in text
    assert "What was said" not in tables([Result(FOUND.date, FOUND.versions, {"PPO": WHOLE})])


def test_releases_are_in_order(tmp_path: Path) -> None:
    for release in ("1.9.0", "1.12.0", "0.24.0"):
        text = f'{{"date": "", "versions": {{"trl": "{release}"}}, "trainings": {{}}}}'
        (tmp_path / f"{release}.json").write_text(text)
    assert [one.versions["trl"] for one in results(tmp_path)] == ["0.24.0", "1.9.0", "1.12.0"]
