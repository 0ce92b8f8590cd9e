"""The command writes each kind of file from a real run, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rldk_tracking.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a real GRPO run that kept a journal."""
    from transformers import PrinterCallback

    from rldk_tracking import JsonlTracker, RLDKCallback
    from rldk_tracking.demo.trainers import grpo_trainer

    path = tmp_path_factory.mktemp("grpo")
    watched = RLDKCallback(
        trackers=[JsonlTracker(path / "rldk")], overrides={"kl.high": {"threshold": 1e-6, "persistence": (1, 1)}}
    )
    trainer = grpo_trainer(path, max_steps=6, callbacks=[watched])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return path


def test_html_and_markdown_tell_the_same(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("r.html", "r.md"):
        assert main(["report", str(folder), "-o", str(tmp_path / name), "--title", "My run"]) == 0
        said = capsys.readouterr().out
        assert said.startswith("Finished, step 6. Warning: kl.high since step 2.")
    page, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()
    for part in ("My run", "kl.high", "KL and policy", "Gradients and updates"):
        assert part in page
        assert part in text
    assert page.count("<svg") > 20
    assert "Value and advantage" in page


def test_several_runs_are_one_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "other.jsonl"
    log.write_text('{"step": 1, "reward": 0.1}\n{"step": 2, "reward": 0.2}')
    assert main(["report", str(folder), str(log), "-o", str(tmp_path / "both.html")]) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "both.html").read_text()
    assert "Finished, step 6. Warning: kl.high since step 2." in said and "other.jsonl: As recorded, step 2." in said
    assert page.count('id="other.jsonl"') >= 1 and "Settings that differ" in page
    for words in ([f"{tmp_path}/both.md"], [f"{tmp_path}/both.html", "--title", "My run"]):
        with pytest.raises(SystemExit, match="Several runs side by side are an .html page"):
            main(["report", str(folder), str(log), "-o", *words])
    with pytest.raises(SystemExit, match="no/such/run"):
        main(["report", str(folder), "no/such/run", "-o", str(tmp_path / "both.html")])


def test_tables_hold_every_series(folder: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert main(["report", str(folder), "-o", str(tmp_path / "r.csv")]) == 0
    assert main(["report", str(folder), "-o", str(tmp_path / "r.parquet")]) == 0
    tables = [pandas.read_csv(tmp_path / "r.csv"), pandas.read_parquet(tmp_path / "r.parquet")]
    for table in tables:
        assert table["step"].tolist() == [1, 2, 3, 4, 5, 6]
        assert table["rldk/kl/ref_k3"].notna().all()
    assert set(tables[0].columns) == set(tables[1].columns)
    assert len(tables[0].columns) > 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", ".", "-o", "r.pdf"], "must end in"),
        (["report", "no/such/run"], "no such file"),
        (["report", "{log}", "--rules", "lenient"], "unknown preset"),
        (["report", "{log}", "-o", "no/such/folder/r.html"], "No such file"),
    ],
)
def test_mistakes_are_sentences(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 0.1}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said):
        main([word.format(log=log) for word in words])
