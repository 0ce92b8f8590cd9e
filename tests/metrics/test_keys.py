"""The catalogue: entries are read from docstrings, names looked up, misspelt ones told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from rldk_tracking.metrics.keys import CATALOGUE, MARK, Key, documented, lookup, misspelt

ENTRY = f"""{MARK}

    rldk/grad/size/{{p50,max}} | 1 | optimizer | lower | max over ranks
        Size of
        a layer.
        = {{stat}} over layers of
        w = 2
    rldk/kl/x | nats | rollout
        Drift.
        = d
"""


def test_an_entry_is_read() -> None:
    assert documented(f'"""What it is.\n\n{ENTRY}\nAnd more.\n"""\n') == [
        Key("rldk/grad/size/p50", "1", "Size of a layer.", "median over layers of w = 2", "optimizer", "lower", "max"),
        Key("rldk/grad/size/max", "1", "Size of a layer.", "maximum over layers of w = 2", "optimizer", "lower", "max"),
        Key("rldk/kl/x", "nats", "Drift.", "d", "rollout"),
    ]
    assert documented("no keys\n") == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (" | nats | rollout", " | nats | rolout"),
        (" | nats | rollout", " | nats"),
        (" | nats | rollout", " | rollout"),
        (" | nats | rollout", " | nats | rollout | up"),
        (" | nats | rollout", " | nats | rollout | median over ranks"),
        ("        = d\n", ""),
        ("        Drift.\n", ""),
    ],
)
def test_an_entry_that_is_none_is_an_error_with_its_place(right: str, wrong: str) -> None:
    assert right in ENTRY
    with pytest.raises(ValueError, match=r"metrics/kl\.py: 'rldk/kl/x.*' is no entry for a key"):
        documented(ENTRY.replace(right, wrong), "metrics/kl.py")


def test_an_entry_cannot_be_changed() -> None:
    key = Key("rldk/kl/ref_k1", "nats per token", "Drift.", "mean", "rollout")
    assert (key.direction, key.reduce) == ("none", "mean")
    with pytest.raises(FrozenInstanceError):
        key.unit = "bits"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("rldk/reward/mean", None, None),
        ("rldk/reward/std", 0.0, None),
        ("rldk/kl/ref_k1", None, None),
        ("rldk/kl/ref_k3", 0.0, None),
        ("rldk/policy/entropy", 0.0, None),
        ("rldk/policy/clip_fraction", 0.0, 1.0),
        ("rldk/reward/group_tied_fraction_all_max", 0.0, 1.0),
        ("rldk/length/mean", 0.0, None),
        ("rldk/grad/norm", 0.0, None),
        ("rldk/update/ratio/p50", 0.0, None),
        ("rldk/value/explained_variance", None, None),
        ("rldk/reward/pairwise_corr/min", None, None),
        ("rldk/preference/chosen_logps_drift", None, None),
        ("rldk/resources/host_rss_slope_gib_per_100_steps", None, None),
        ("rldk/health/score", 0.0, 1.0),
    ],
)
def test_what_values_a_series_can_have(name: str, lowest: float | None, highest: float | None) -> None:
    assert (CATALOGUE[name].lowest, CATALOGUE[name].highest) == (lowest, highest)


def test_templates_are_resolved() -> None:
    row = lookup("rldk/reward/function/org/judge/mean")
    assert row is not None
    assert row.name == "rldk/reward/function/<name>/mean"
    assert lookup("rldk/reward/function//mean") is None
    assert lookup("rldk/reward/function/a/median") is None
    assert lookup("rldk/kl/ref_k1") is CATALOGUE["rldk/kl/ref_k1"]
    assert lookup("rldk/kl/ref_k4") is None


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys, rldk_tracking.metrics.keys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_docstring_need_be_kept() -> None:
    code = "from rldk_tracking.metrics import keys; print(len(keys.CATALOGUE), keys.__doc__)"
    said = subprocess.run([sys.executable, "-OO", "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split() == [str(len(CATALOGUE)), "None"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rldk/reward/maen", "did you mean rldk/reward/mean?"),
        ("lenght/mean", "did you mean rldk/length/mean?"),
        ("rewards/mean", "did you mean rldk/reward/mean? A number that is logged under this very name is train/rew"),
        ("rldk/kl", "did you mean rldk/kl/"),
        ("rldk/run/qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq", "see `rldk-tracking keys`."),
    ],
)
def test_a_misspelt_name_is_told(name: str, hint: str) -> None:
    said = misspelt(name)
    assert said is not None and said.startswith(f"there is no series {name!r}; {hint}")


def test_a_name_may_have_to_be_in_full() -> None:
    assert misspelt("reward/mean") is None is misspelt("rldk/reward/mean", in_full=True)
    assert misspelt("reward/mean", in_full=True) == "there is no series 'reward/mean'; did you mean rldk/reward/mean?"


@pytest.mark.parametrize("name", ["x", "kl", "rldk/mine/high", "reward/format", "train/rewards/mean", "tools/failures"])
def test_names_of_the_users_own_are_possible(name: str) -> None:
    assert misspelt(name) is None
