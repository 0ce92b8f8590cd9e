from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.trackers.mlflow_names import Names, check_arguments, sanitised

pytest.importorskip("mlflow", reason="needs mlflow")


@given(st.text(min_size=0, max_size=300))
def test_any_key_becomes_one_that_mlflow_takes(key: str) -> None:
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_length_limit, _validate_metric_name

    name = sanitised(key)
    _validate_metric_name(name)
    _validate_length_limit("name", MAX_ENTITY_KEY_LENGTH, name)


@given(st.lists(st.text(alphabet="a(%/. ", max_size=6), unique=True, max_size=30))
def test_two_keys_never_share_a_name(keys: list[str]) -> None:
    names = Names()
    assert len({names[key] for key in keys}) == len(keys)
    assert [names[key] for key in keys] == [names[key] for key in keys]


def test_legal_keys_stay_as_they_are() -> None:
    for key in ("rldk/kl/ref_k1", "rldk/rewards/my.fn-2/mean", "train loss"):
        assert sanitised(key) == key


def test_what_a_tracker_may_be_given() -> None:
    check_arguments(None, None, None)
    check_arguments("abc", "http://127.0.0.1:5000", "mine")
    for wrong in ((5, None, None), (None, 5000, None), (None, None, "")):
        with pytest.raises((TypeError, ValueError), match=r"must be .*: write "):
            check_arguments(*wrong)
