"""The expression language: against plain Python on lists, and everything that it refuses."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.expression import LONGEST, Expression, ExpressionError


def last_value(text: str, values: list[float], key: str = "rldk/a"):
    expression = Expression(text)
    memory, result = expression.memory(), None
    for value in values:
        memory.add({key: value})
        result = expression.judge(memory)
    return result


AGGREGATES = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "sum": sum,
    "std": statistics.stdev,
    "delta": lambda v: v[-1] - v[0],
}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.integers(2, 10), st.sampled_from(sorted(AGGREGATES)))
def test_windows_are_those_of_the_last_values(values: list[float], n: int, name: str) -> None:
    result = last_value(f'{name}("a", {n})', values)
    if len(values) < n:
        assert result is None, "unknown until the window is full"
    else:
        assert result == pytest.approx(AGGREGATES[name](values[-n:]))


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ('last("a") * 2 + 1 > 4', [2.0], True),
        ('-last("a") < -1', [2.0], True),
        ('1 < last("a") < 3', [2.0], True),
        ('1 < last("a") < 2', [2.0], False),
        ('last("a") / 0 > 1', [2.0], None),
        ('abs(last("a") - 5)', [2.0], 3.0),
        ('not last("a") > 1', [2.0], False),
        ('last("a") > 1 and mean("a", 5) > 1', [2.0], None),
        ('last("a") > 1 or mean("a", 5) > 1', [2.0], True),
        ('last("a") > 3 and mean("a", 5) > 1', [2.0], False),
        ('consecutive(last("a") > 1, 3)', [2, 2, 2], True),
        ('consecutive(last("a") > 1, 3)', [2, 0, 2, 2], False),
        ('slope("a", 4)', [0.0, 2.0, 4.0, 6.0], 2.0),
        ('rising("a", 10)', list(map(float, range(10))), True),
        ('falling("a", 10)', list(map(float, range(10))), False),
        ('rising("a", 3)', [1.0, 2.0, 3.0], None),
        ('last("rldk/a")', [2.0], 2.0),
    ],
)
def test_what_it_means(text: str, values: list[float], expected) -> None:
    assert last_value(text, values) == expected


def test_two_keys_need_both() -> None:
    expression = Expression('last("a") > last("b")')
    memory = expression.memory()
    assert expression.keys == ("a", "b")
    assert memory.add({"rldk/a": 1.0}) and expression.judge(memory) is None
    assert memory.add({"rldk/b": 0.0}) and expression.judge(memory) is True
    assert not memory.add({"rldk/c": 0.0})


def test_one_key_with_two_windows_keeps_the_wider() -> None:
    expression = Expression('mean("a", 2) > mean("a", 6)')
    memory = expression.memory()
    for value in [0, 0, 0, 0, 5, 5, 5, 5]:
        memory.add({"rldk/a": float(value)})
    assert expression.judge(memory) is True
    assert len(memory.windows["a"]) == 6


def test_sides_of_a_comparison_are_reported() -> None:
    expression = Expression('mean("a", 2) > 3 + 1')
    memory = expression.memory()
    for value in (5.0, 7.0):
        memory.add({"rldk/a": value})
    assert expression.judge_with_sides(memory) == (True, 6.0, 4.0)
    other = Expression('consecutive(last("a") > 1, 2)')
    assert other.judge_with_sides(other.memory()) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 + 1 > 1", "reads no series"),
        ("last(a) > 1", "quotation marks"),
        ('mean("a")', "no function"),
        ('mean("a", 0)', "whole number from 1"),
        ('mean("a", 1001)', "whole number from 1"),
        ('mean("a", 2.5)', "whole number"),
        ('mean("a", True)', "whole number"),
        ('last("a") ** 9', "column 1: .* not allowed"),
        ('last("a") >', "column"),
        ('__import__("os").system("true")', "no function|not allowed"),
        ('last("a").real > 0', "not allowed"),
        ('(lambda: 1)() > last("a")', "not allowed"),
        ('[last("a")][0]', "not allowed"),
        ('last("a") if last("a") else 0', "not allowed"),
        ('open("a")', "no function 'open"),
        ('last(key="a")', "not allowed"),
        ('f"{last}" > 1', "not allowed"),
        ('last("a") > "b"', "not allowed"),
        ("a := 1", "column|not allowed"),
        ("True", "not allowed"),
        ("x" * (LONGEST + 1), "longer than"),
        (f'last("a") > {"9" * 400}', "column 13: a number is at most 1.8e308"),
        ('last("a") > 1e999', "column 13: a number is at most"),
        ('last("a") > 1\0', "null"),
        ('mean("lenght/mean", 3) > 1', "column 6: there is no series 'lenght/mean'; did you mean rldk/length/mean"),
        ('last("rldk/reward") > 1', "there is no series 'rldk/reward'"),
        ("(" * 300 + 'last("a")' + ")" * 300, "nested|column"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ('last("a") > 1', 0),
        ('mean("a", 100) > median("b", 50)', 150),
        ('slope("a", 100) and std("a", 10)', 4950 + 40),
        ('rising("a", 8) or falling("a", 8)', 56),
    ],
)
def test_what_a_row_costs(text: str, cost: int) -> None:
    assert Expression(text).row_cost == cost


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_an_expression_error(text: str) -> None:
    try:
        expression = Expression(text)
    except ExpressionError:
        return
    expression.judge(expression.memory())


LEAVES = st.sampled_from(['last("a")', 'mean("a", 3)', 'last("b")', "2", "0"])


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner)


@given(st.recursive(LEAVES, combined, max_leaves=6))
def test_arithmetic_is_pythons(text: str) -> None:
    try:
        expression = Expression(text)
    except ExpressionError:
        assert '"' not in text
        return
    memory = expression.memory()
    for a, b in ((1.0, 4.0), (2.0, 0.5), (6.0, -3.0)):
        memory.add({"rldk/a": a, "rldk/b": b})
    plain = text
    for call, value in (('last("a")', "6.0"), ('last("b")', "-3.0"), ('mean("a", 3)', "3.0")):
        plain = plain.replace(call, value)
    expected = _arithmetic(plain)
    result = expression.judge(memory)
    assert result is None if expected is None else math.isclose(result, expected, rel_tol=1e-9, abs_tol=1e-9)


def _arithmetic(text: str) -> float | None:
    """Parenthesised binary arithmetic, by hand; None on a division by 0."""
    if not text.startswith("("):
        return float(text)
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 1 and character == " ":
            operator, right = text[i + 1], text[i + 3 : -1]
            a, b = _arithmetic(text[1:i]), _arithmetic(right)
            if a is None or b is None or (operator == "/" and b == 0):
                return None
            return {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0.0}[operator]
    raise AssertionError(text)
