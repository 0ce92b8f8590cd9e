"""What a contract's series are, and which of them count as come."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rldk_tracking.metrics.columns import Table, Tail
from rldk_tracking.metrics.keys import CATALOGUE, lookup
from rldk_tracking.probes.contract import ContractWatch, a_batch, in_words, only, tables
from rldk_tracking.ranks import Merged
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.contract import Contract

FUNCTIONS = {"a": 1.0, "b": 0.0}
ROLLOUT_FIELDS = frozenset(field.name for field in dataclasses.fields(Rollout))
UPDATE_FIELDS = frozenset(field.name for field in dataclasses.fields(PolicyUpdate))
WHOLE = Contract(ROLLOUT_FIELDS, UPDATE_FIELDS, functions=FUNCTIONS)
OF_PENALTY = {"rldk/reward/non_score_share"}


def merged(without: str = "", nan: tuple[str, ...] = ()) -> Merged:
    """A batch with every field but one; columns that begin so are NaN."""
    rollout, update = a_batch(FUNCTIONS)
    fields = ROLLOUT_FIELDS - {without}
    table, steps = tables(
        only(rollout, fields), dataclasses.replace(update, **({without: None} if without == "old_logprobs" else {}))
    )

    def hollow(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.full_like(c, np.nan) if nan and name.startswith(nan) else c for name, c in columns.items()}

    tails = {name: Tail(np.empty(0), 0) if nan and name.startswith(nan) else tail for name, tail in table.tails.items()}
    return Merged(Table(hollow(table.columns), tails, table.names), Table(hollow(steps.columns)), {}, [])


def watched(contract: Contract, *rows: Merged) -> ContractWatch:
    watch = ContractWatch(contract)
    for step, row in enumerate(rows, 1):
        watch.see(step, (), row, {})
    return watch


def test_the_series_of_every_field_are_those_that_are_documented_as_computed() -> None:
    found = {lookup(key) for key in ContractWatch(WHOLE).series}
    assert found == {key for key in CATALOGUE.values() if key.source in ("rollout", "update")}


def test_without_fields_there_is_nothing_but_the_numbers() -> None:
    assert ContractWatch(Contract()).series == frozenset()
    assert ContractWatch(Contract(numbers=frozenset({"rldk/train/loss"}))).series == {"rldk/train/loss"}
    assert watched(Contract(), merged(), merged()).coverage == {}


def test_what_has_come_whole_has_nothing_missing() -> None:
    watch = watched(WHOLE, merged())
    assert (watch.missing, watch.coverage, watch.news()) == (None, {}, None), "after one row nobody knows"
    watch = watched(WHOLE, merged(), merged())
    assert (watch.missing, watch.coverage, watch.news()) == (frozenset(), {"rldk/system/coverage": 1.0}, None)


@pytest.mark.parametrize(
    ("field", "missing"),
    [
        ("non_score_rewards", OF_PENALTY),
        ("truncated", {f"rldk/length/{name}" for name in ("truncated_fraction", "eos_fraction", "terminated_mean")}),
        ("ref_logprobs", {key for key in CATALOGUE if key.startswith("rldk/kl/")}),
        ("sampler_logprobs", {key for key in CATALOGUE if key.startswith("rldk/sampler/")}),
        ("token_ids", {key for key in CATALOGUE if key.startswith("rldk/diversity/")}),
        ("old_logprobs", {key for key, about in CATALOGUE.items() if about.source == "update"}),
    ],
)
def test_a_field_that_does_not_come_lacks_its_series(field: str, missing: set[str]) -> None:
    watch = watched(WHOLE, merged(without=field), merged(without=field))
    assert watch.missing == missing
    assert watch.coverage["rldk/system/coverage"] == pytest.approx(1 - len(missing) / len(watch.series))
    news = watch.news()
    assert news is not None and f"Read: {len(watch.series) - len(missing)} of {len(watch.series)} series" in news
    assert watch.news() is None, "once"
    without = dataclasses.replace(WHOLE, rollout=WHOLE.rollout - {field}, update=WHOLE.update - {field})
    assert watched(without, merged(without=field), merged(without=field)).missing == frozenset(), "nobody promised it"


def test_log_probabilities_of_other_completions_have_not_come() -> None:
    """Where the loss's rows are not those that were sampled, all of them are NaN."""
    rows = [merged(nan=("kl/",))] * 2
    assert watched(WHOLE, *rows).missing == {key for key in CATALOGUE if key.startswith("rldk/kl/")}
    hides = dataclasses.replace(WHOLE, hides_truncated=True)
    assert watched(hides, *rows).missing == frozenset(), "each of them may be one that the trainer hides"


def test_scores_that_nobody_gave_have_come() -> None:
    assert watched(WHOLE, *[merged(nan=("reward/score",))] * 2).missing == frozenset()


def test_a_number_of_the_log_is_there_from_then_on() -> None:
    watch = ContractWatch(Contract(numbers=frozenset({"rldk/train/loss", "rldk/value/loss"})))
    watch.see(1, ["rldk/train/loss"], merged(), {})
    watch.see(2, [], merged(), {})
    assert watch.missing == {"rldk/value/loss"}


def test_what_the_configuration_rules_out_is_not_taken_from_the_log() -> None:
    """A trainer logs a clip fraction of 0 where nothing can be clipped."""
    logged = {"rldk/policy/clip_fraction": 0.0, "rldk/kl/ref_k3": 0.5}
    for fields, taken in ((UPDATE_FIELDS, logged), (frozenset(), {"rldk/kl/ref_k3": 0.5})):
        watch = ContractWatch(Contract(frozenset({"mask"}), fields))
        empty = Merged(Table(), Table(), {}, [])
        watch.see(1, (), empty, {})
        assert watch.see(2, (), empty, logged) == taken


def test_words_for_what_is_missing() -> None:
    series = [f"rldk/kl/{name}" for name in "abc"] + ["rldk/nan/reward"]
    assert in_words(series, series) == "rldk/kl/ (all 3), rldk/nan/reward"
    assert in_words(["rldk/kl/a", "rldk/kl/c"], series) == "rldk/kl/{a, c}"
