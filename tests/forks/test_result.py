"""The page of trainers of other packages shows what the result files say."""

from __future__ import annotations

import logging
import math
import sqlite3
from pathlib import Path

import pytest

from tests.forks.result import PAGE, Result, Training, compared, listen, page, results, said, stored, tables

GRPO = Training(
    *("GRPO", "swift rlhf --rlhf_type grpo", 0, 100, 102),
    missing={"since it has no batch": ["rldk/kl/ref_k1", "rldk/advantage/std"]},
    said=["cannot be read whole"],
    compared=300,
)
FOUND = Result("ms-swift", "2026-11-28", "installed", {"ms-swift": "4.6.0", "trl": "0.29.1"}, [GRPO], ["A note."])


def test_the_page_is_made_from_the_result_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, results()), "run: python -m tests.forks.result"


def test_no_training_misses_series_without_a_word() -> None:
    for one in results():
        for training in one.trainings:
            assert training.cannot or training.exit_code == 0, (one.package, training.trainer)
            assert training.said or not training.missing, (one.package, training.trainer)
            assert training.differing == [], (one.package, training.trainer)


def test_tables() -> None:
    text = tables([FOUND, Result("verl", "2026-11-28", "installed", {}, [Training("PPO", "verl", cannot="no Ray")])])
    assert "| ms-swift | GRPO | installed | 100 | 102 | 2 | yes, 1 | 300 | 0 | 2026-11-28 |" in text
    assert "| verl | PPO | cannot be run |  |  |  |  |  |  | 2026-11-28 |" in text
    assert "- Missing, since it has no batch: `rldk/advantage/std`, `rldk/kl/ref_k1`." in text
    assert "Cannot be run: no Ray" in text
    head, line, *_ = text.splitlines()
    assert head.count("|") == line.count("|")


def test_silence_where_something_is_missing_is_seen() -> None:
    silent = Training("GRPO", "x", 0, 1, 2, missing={"why": ["rldk/kl/ref_k1"]})
    whole = Training("GRPO", "x", 0, 2, 2)
    text = tables([Result("a", "2026-11-28", "b", {}, [silent, whole])])
    assert "| 1 | none | 0 |" in text
    assert "| 0 | none needed | 0 |" in text


def test_a_result_file_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.forks.result.RESULTS", tmp_path)
    FOUND.write("swift")
    assert results() == [FOUND]


def test_stored(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    store = sqlite3.connect(database)
    store.execute("create table metrics (key, value, step, is_nan, run_uuid)")
    rows = [("rldk/a", 1.0, 1, 0, "r"), ("rldk/a", 0.0, 2, 1, "r"), ("loss", 2.0, 1, 0, "r")]
    store.executemany("insert into metrics values (?, ?, ?, ?, ?)", rows)
    store.commit()
    assert stored(database)["rldk/a"][1] == 1.0
    assert math.isnan(stored(database)["rldk/a"][2])
    assert set(stored(database)) == {"rldk/a"}
    store.execute("insert into metrics values ('rldk/a', 3.0, 1, 0, 'r')")
    store.commit()
    with pytest.raises(ValueError, match="twice at step 1"):
        stored(database)
    store.execute("insert into metrics values ('rldk/a', 3.0, 1, 0, 'another')")
    store.commit()
    with pytest.raises(ValueError, match="of 2 runs"):
        stored(database)
    store.close()


def test_compared() -> None:
    series = {"rldk/a": {1: 1.0, 2: 2.0}}
    assert compared(series, {"rldk/a": {1: 1.0, 2: 2.0}}) == (2, [])
    count, differing = compared(series, {"rldk/a": {1: 1.1}, "rldk/b": {1: 0.0}})
    assert count == 2
    assert [line.split(" is ")[0] for line in differing] == ["`rldk/a` at step 1", "`rldk/b` at step 1"]


def test_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    assert said(path) == []
    logger = logging.getLogger("rldk_tracking")
    listen(path)
    try:
        for sentence in ("one", "two", "one"):
            logger.warning(sentence)
        logger.info("not this")
    finally:
        logger.removeHandler(logger.handlers[-1])
    assert said(path) == ["one", "two"]
