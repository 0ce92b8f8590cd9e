"""The specification is about series that exist, and shows what there is data for."""

from __future__ import annotations

from dataclasses import replace

from rldk_tracking.charts.spec import OWN, SECTIONS, Chart, Section, charted, matching, sections, signature
from rldk_tracking.metrics.keys import CATALOGUE, lookup

CHARTS = [chart for section in SECTIONS for chart in section.charts]
NAMES = [name for c in CHARTS for name in (c.key, *c.beside, *([c.limit] if c.limit else ()))]


def test_every_series_is_documented() -> None:
    assert [name for name in NAMES if name not in CATALOGUE and lookup(name) is None] == []


def test_limits_are_documented_as_limits() -> None:
    limits = [chart.limit for chart in CHARTS if chart.limit is not None]
    assert "rldk/kl/limit" in limits
    for limit in limits:
        row = lookup(limit)
        assert row is not None
        assert row.name == "rldk/<group>/limit"


def test_the_sections_are_those_that_a_run_is_read_by() -> None:
    assert [section.name for section in SECTIONS] == [
        "Health and alerts",
        "Rollouts",
        "KL and policy",
        "Sampling beside the training",
        "Value and advantage",
        "Length and diversity",
        "Tools",
        "Gradients and updates",
        "Checkpoints",
        "Resources",
    ]


def test_no_series_is_drawn_twice() -> None:
    assert len(NAMES) == len(set(NAMES))


def test_bounds_belong_to_shares_and_scores() -> None:
    for chart in CHARTS:
        row = lookup(chart.key)
        assert row is not None
        if chart.bounds is not None:
            assert row.unit in ("1", "score in [0, 1]")
            assert not chart.logarithmic


def test_without_data_nothing_appears() -> None:
    assert sections([]) == []
    assert sections(["rldk/unknown/series"]) == []


def test_a_series_outside_the_catalogue_has_a_chart_of_its_own() -> None:
    found = sections(["rldk/train/loss", "env/score", "tools/searches"])
    assert [section.name for section in found] == ["Gradients and updates", OWN]
    assert [chart.key for chart in found[-1].charts] == ["env/score", "tools/searches"]
    assert charted(["env/score", "rldk/unknown/series"]) == {"env/score"}


def test_a_section_without_data_does_not_appear() -> None:
    shown = sections(["rldk/kl/ref_k3", "rldk/length/mean", "rldk/length/p95"])
    assert [(section.name, [chart.key for chart in section.charts]) for section in shown] == [
        ("KL and policy", ["rldk/kl/ref_k3"]),
        ("Length and diversity", ["rldk/length/mean"]),
    ]


def test_a_chart_draws_the_series_that_exist_and_the_limit_with_them() -> None:
    chart = next(chart for chart in CHARTS if chart.key == "rldk/kl/ref_k3")
    assert chart.series(["rldk/kl/ref_k3"]) == ["rldk/kl/ref_k3"]
    everything = ["rldk/kl/limit", "rldk/kl/ref_k1", "rldk/kl/ref_k3"]
    assert chart.series(everything) == ["rldk/kl/ref_k3", "rldk/kl/ref_k1", "rldk/kl/limit"]
    assert chart.series(["rldk/kl/ref_k1", "rldk/kl/limit"]) == []


def test_charts_of_another_trainer_are_left_out() -> None:
    keys = ["rldk/value/explained_variance", "rldk/reward/group_tied_fraction", "rldk/reward/mean"]
    shown = {
        trainer: [chart.key for section in sections(keys, trainer) for chart in section.charts]
        for trainer in ("PPOTrainer", "GRPOTrainer", "RLOOTrainer", "MyPPOTrainer", None)
    }
    assert shown["PPOTrainer"] == ["rldk/reward/mean", "rldk/value/explained_variance"]
    assert shown["GRPOTrainer"] == shown["RLOOTrainer"] == ["rldk/reward/mean", "rldk/reward/group_tied_fraction"]
    assert set(shown["MyPPOTrainer"]) == set(shown[None] or ()) == set(keys)


def test_a_template_stands_for_what_fits_it() -> None:
    keys = ["rldk/reward/function/b/mean", "rldk/reward/function/a/mean", "rldk/reward/function/a/std"]
    found = matching("rldk/reward/function/<name>/mean", keys)
    assert found == ["rldk/reward/function/a/mean", "rldk/reward/function/b/mean"]
    assert charted(keys) == set(found)


def test_a_name_with_signs_of_a_pattern_is_taken_literally() -> None:
    assert matching("rldk/a.c/<name>", ["rldk/abc/x"]) == []
    assert matching("rldk/a.c/<name>", ["rldk/a.c/x(["]) == ["rldk/a.c/x(["]


def test_the_signature_changes_with_anything_about_the_charts() -> None:
    chart = Chart("rldk/kl/ref_k3", "KL")
    first = signature([Section("A", (chart,))])
    assert first == signature([Section("A", (chart,))])
    others = [
        [],
        [Section("B", (chart,))],
        [Section("A", (replace(chart, title="Divergence"),))],
        [Section("A", (replace(chart, limit="rldk/kl/limit"),))],
        [Section("A", (replace(chart, logarithmic=True),))],
        [Section("A", (chart, chart))],
    ]
    assert len({first, *map(signature, others)}) == len(others) + 1
