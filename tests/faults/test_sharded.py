"""FSDP2 on two gloo ranks: the numbers, the alerts and the stop of the same training on one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.sharded_script import train
from tests.faults.test_ranks import launch, results

pytest.importorskip("torch.distributed.fsdp")
SCRIPT = Path(__file__).with_name("sharded_script.py")
NORMS = ("rldk/grad/norm", "rldk/weight/norm")


def test_like_one_process(tmp_path: Path) -> None:
    alone = train(tmp_path, steps=8, broken_after=4)
    assert ["nan.weights", "firing", 4] in alone["alerts"]
    done = launch(2, tmp_path, SCRIPT, steps=8, broken_after=4)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = results(tmp_path)
    # Rank 0 does not hold the broken weight and says so, and both end in the same step. Alone it is said between two
    # steps; several ranks exchange nothing between steps, so it is said in the next one.
    assert ranks[1]["alerts"] == []
    assert ["nan.weights", "firing", 5] in ranks[0]["alerts"]
    assert {alert[0] for alert in ranks[0]["alerts"]} == {alert[0] for alert in alone["alerts"]}
    assert ranks[0]["last"] == ranks[1]["last"] <= alone["last"] + 1 < 8
    assert ranks[1]["series"] == {}, "one writer"
    for key in NORMS:
        expected = dict(alone["series"][key])
        measured = {step: value for step, value in ranks[0]["series"][key] if step <= 4}
        assert list(measured) == [1, 2, 3, 4], key
        assert measured == pytest.approx({step: expected[step] for step in measured}, rel=1e-3), key
    # Each holds its own part: that the parts differ is no drift.
    assert {value for _, value in ranks[0]["series"].get("rldk/system/rank_spread/weights", ())} <= {0.0}
