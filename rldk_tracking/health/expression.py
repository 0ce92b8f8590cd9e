"""A small language over series for users' own rules: parsed against a list of what is allowed, never run as Python.

    last("rldk/kl/ref_k1") > 0.3
    mean("reward/mean", 20) < 0.1 and not rising("reward/mean", 50)
    consecutive(last("policy/entropy") < 0.05, 5) or max("grad/norm", 10) > 100 * median("grad/norm", 100)

| function | of the last n rows that have the key |
|---|---|
| last(key) | the newest value |
| mean, median, min, max, std, sum (key, n) | as named; std has n - 1 in the denominator |
| delta(key, n) | newest minus oldest of n |
| slope(key, n) | Theil's slope per row |
| rising(key, n), falling(key, n) | whether Mann and Kendall's test finds a trend at 1 % |
| consecutive(condition, n) | whether the condition held in each of the last n judgements |
| abs(x) | magnitude |

Numbers, + - * /, comparisons, and, or, not, parentheses. A key may leave out its `rldk/`; a name that is no key is that
under which the trainer or the user logs a number. Until a window is full, and
where a division by 0 leaves no number, the result is unknown, and what depends on it.
"""

from __future__ import annotations

import ast
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from rldk_tracking.health.detectors.trend import mann_kendall, theil_sen
from rldk_tracking.metrics.keys import lookup, misspelt

LONGEST = 2000
WIDEST = 1000
CERTAIN = 2.576
"""Normal score of a two-sided test at 1 %."""

Value = float | bool | None
Windows = Mapping[str, "deque[float]"]
Node = Callable[["Memory"], Value]


class ExpressionError(ValueError):
    """The text is no expression of this language; the message says where and what is allowed."""


class Memory:
    """What an expression remembers: the windows of its keys, and how long its `consecutive` conditions have held."""

    def __init__(self, widths: Mapping[str, int], counters: int) -> None:
        self.windows = {key: deque[float](maxlen=width) for key, width in widths.items()}
        self.counters = [0] * counters
        self.names = {key: key for key in widths}
        """Under which name each series came: a key may leave out its `rldk/` where it is in no catalogue, too."""

    def add(self, row: Mapping[str, float]) -> bool:
        """Take a row; False where it has none of the keys."""
        present = {key: name for key in self.windows for name in (f"rldk/{key}", key) if name in row}
        self.names |= present
        for key, name in present.items():
            self.windows[key].append(row[name])
        return bool(present)

    def newest(self, key: str, n: int) -> list[float] | None:
        """The last n values, oldest first; None where there are fewer."""
        window = self.windows[key]
        return list(islice(window, len(window) - n, None)) if len(window) >= n else None


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _trend(sign: int) -> Callable[[list[float]], bool | None]:
    return lambda values: sign * mann_kendall(values) > CERTAIN if len(values) >= 8 else None


WINDOWED: dict[str, Callable[[list[float]], Value]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "sum": sum,
    "std": _spread,
    "delta": lambda values: values[-1] - values[0],
    "slope": lambda values: None if (found := theil_sen(values)) is None else found[1],
    "rising": _trend(1),
    "falling": _trend(-1),
}
OF_PAIRS = ("slope", "rising", "falling")
"""Those that look at every pair of values."""
STD_COST = 4
"""Of a standard deviation, which is exact, for each value; in operations of about 0.15 us."""
ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float | None]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b if b != 0 else None,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


class Expression:
    """A parsed expression.

    Attributes:
        keys: the series that it reads, in order of appearance.
        row_cost: about how many operations one judgement takes in all windows together.

    Raises:
        ExpressionError: the text is none; the message says where, and what is allowed.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ExpressionError(f"longer than {LONGEST} characters.")
        self.text = text
        self._widths: dict[str, int] = {}
        self._counters = 0
        self.row_cost = 0
        try:
            self._judge, self._sides = self._whole_of(ast.parse(text.strip(), mode="eval").body)
        except SyntaxError as error:
            raise ExpressionError(f"column {error.offset}: {error.msg}.") from error
        except (RecursionError, MemoryError) as error:
            raise ExpressionError("nested too deeply.") from error
        except ExpressionError:
            raise
        except ValueError as error:  # of the parser: a null character, half of a character
            raise ExpressionError(f"{error}.") from error
        self.keys = tuple(self._widths)
        if not self.keys:
            raise ExpressionError("reads no series.")

    def memory(self) -> Memory:
        """An empty one."""
        return Memory(self._widths, self._counters)

    def judge(self, memory: Memory) -> Value:
        """Its value on a memory of its own, None where unknown."""
        return self.judge_with_sides(memory)[0]

    def judge_with_sides(self, memory: Memory) -> tuple[Value, Value, Value]:
        """The same, with what is left and right of the comparison where the whole is one: a value and its limit."""
        if self._sides is None:
            return self._judge(memory), None, None
        left, right = (side(memory) for side in self._sides)
        return None if left is None or right is None else self._compare(left, right), left, right

    def _whole_of(self, node: ast.expr) -> tuple[Node, tuple[Node, Node] | None]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
            self._compare = COMPARISONS[type(node.ops[0])]
            return self.judge, (self._node(node.left), self._node(node.comparators[0]))
        return self._node(node), None

    def _node(self, node: ast.expr) -> Node:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
            return self._number(node, node.value)
        if isinstance(node, ast.BoolOp):
            return self._logic(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
            return self._unary(node)
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            operate = ARITHMETIC[type(node.op)]
            left, right = self._node(node.left), self._node(node.right)
            return lambda memory: _both(left(memory), right(memory), operate)
        if isinstance(node, ast.Compare) and all(type(op) in COMPARISONS for op in node.ops):
            return self._comparison(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            return self._call(node, node.func.id)
        raise ExpressionError(f"column {node.col_offset + 1}: {ast.unparse(node)[:40]!r} is not allowed here.")

    @staticmethod
    def _number(node: ast.expr, value: float) -> Node:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ExpressionError(f"column {node.col_offset + 1}: a number is at most 1.8e308.")
        return lambda memory: number

    def _logic(self, node: ast.BoolOp) -> Node:
        parts = [self._node(value) for value in node.values]
        decisive = isinstance(node.op, ast.Or)

        def judge(memory: Memory) -> Value:
            results = [part(memory) for part in parts]
            if any(result is not None and bool(result) is decisive for result in results):
                return decisive
            return None if None in results else not decisive

        return judge

    def _unary(self, node: ast.UnaryOp) -> Node:
        inner = self._node(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda memory: None if (value := inner(memory)) is None else not value
        return lambda memory: None if (value := inner(memory)) is None else -value

    def _comparison(self, node: ast.Compare) -> Node:
        terms = [self._node(term) for term in (node.left, *node.comparators)]
        compare = [COMPARISONS[type(op)] for op in node.ops]

        def judge(memory: Memory) -> Value:
            values = [term(memory) for term in terms]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                return None
            return all(test(a, b) for test, a, b in zip(compare, known, known[1:], strict=False))

        return judge

    def _call(self, node: ast.Call, name: str) -> Node:
        if name == "abs" and len(node.args) == 1:
            inner = self._node(node.args[0])
            return lambda memory: None if (value := inner(memory)) is None else abs(value)
        if name == "consecutive" and len(node.args) == 2:
            return self._consecutive(self._node(node.args[0]), self._whole(node.args[1]))
        if name == "last" and len(node.args) == 1:
            key = self._key(node.args[0], 1)
            return lambda memory: memory.windows[key][-1] if memory.windows[key] else None
        if name in WINDOWED and len(node.args) == 2:
            n = self._whole(node.args[1])
            key, aggregate = self._key(node.args[0], n), WINDOWED[name]
            self.row_cost += n * (n - 1) // 2 if name in OF_PAIRS else STD_COST * n if name == "std" else n
            return lambda memory: None if (values := memory.newest(key, n)) is None else aggregate(values)
        known = ", ".join(["last(key)", *(f"{name}(key, n)" for name in WINDOWED), "consecutive(x, n)", "abs(x)"])
        raise ExpressionError(
            f"column {node.col_offset + 1}: no function {name!r} of these arguments; there are {known}."
        )

    def _consecutive(self, inner: Node, n: int) -> Node:
        counter = self._counters
        self._counters += 1

        def judge(memory: Memory) -> Value:
            value = inner(memory)
            memory.counters[counter] = memory.counters[counter] + 1 if value else 0
            return None if value is None else memory.counters[counter] >= n

        return judge

    def _key(self, node: ast.expr, width: int) -> str:
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not node.value:
            raise ExpressionError(f"column {node.col_offset + 1}: a key stands in quotation marks.")
        problem = misspelt(node.value)
        if problem is not None:
            raise ExpressionError(f"column {node.col_offset + 1}: {problem}")
        in_full = f"rldk/{node.value}"
        key = node.value if lookup(in_full) is None else in_full
        self._widths[key] = max(width, self._widths.get(key, 1))
        return key

    @staticmethod
    def _whole(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int and 1 <= node.value <= WIDEST:
            return node.value
        raise ExpressionError(f"column {node.col_offset + 1}: a window is a whole number from 1 to {WIDEST}.")


def _both(left: Any, right: Any, operate: Callable[[float, float], float | None]) -> Value:
    return None if left is None or right is None else operate(left, right)
