"""The lines of a journal: what a run was and did, one JSON object a line. `JsonlTracker` writes the same lines.

Each has `type` and `time` (seconds since the epoch).

| type | further fields |
|---|---|
| begin | version, run (name, trainer, config, output_dir), pid, created, host, ranks, resumed_at, rules |
| destination | id, tracker (its name), to (its `address()`), in_process |
| metrics | step, metrics, and alerts, where that step has any |
| alert | the fields of `Alert` |
| table | key, step, columns, rows |
| figure | key, step, svg |
| heatmap | key, step, heatmap (the fields of `Heatmap`) |
| checkpoint | step, name, metrics, params |
| status | step, status, metrics |
| end | status, step, exception |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import SEVERITIES, Alert
from rldk_tracking.rollout import RunInfo

VERSION = 1
"""Of the format."""
ENDED = ("finished", "stopped", "crashed")
"""The states that end a run."""
Call = tuple[str, tuple[Any, ...]]
"""Method of a tracker, and its arguments."""

_LARGEST_STEP = 2**53
_NOT_FINITE = ("nan", "inf", "-inf")


def encode(method: str, args: tuple[Any, ...], time: float) -> dict[str, Any]:
    """The record of one call. Raises KeyError for a method that no tracker has."""
    if method == "alert":
        return {"time": time, "type": "alert"} | cast("Alert", args[0]).as_dict()
    kind = _KINDS[method]
    fields = zip(_CALLS[kind][1], args, strict=True)
    return {"time": time, "type": kind} | {name: _data(value) for name, value in fields}


def calls(record: Mapping[str, Any]) -> list[Call]:
    """The calls that a record asks of a tracker, in order; none for what is no call.

    Raises:
        ValueError: a field is missing or holds what it must not; the message names it.
    """
    kind = record["type"]
    if kind in ("begin", "destination"):
        return []
    if kind not in ("alert", "end", *_CALLS):
        raise ValueError(f"the type {str(kind)[:40]!r} is not known")
    try:
        if kind == "metrics":
            return _decode_row(record)
        if kind == "end":
            return _decode_end(record)
        return [("alert", (alert_of(record),)) if kind == "alert" else _decode_call(kind, record)]
    except KeyError as error:
        raise ValueError(f"a field is missing ({error})") from error
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"a field holds what it must not ({type(error).__name__})") from error


def decode(record: Mapping[str, Any]) -> Call:
    """The one call of a record that `encode` made. Raises ValueError as `calls` does, and where there is no call."""
    found = calls(record)
    if not found:
        raise ValueError(f"a record of the type {record['type']!r} is no call")
    return found[0]


def run_info(begin: Mapping[str, Any]) -> RunInfo:
    """What a begin record says of the run, as far as it can be understood."""
    run = begin.get("run")
    if not isinstance(run, dict):
        return RunInfo()
    config = run.get("config")
    return RunInfo(
        name=None if run.get("name") is None else str(run["name"]),
        trainer=str(run.get("trainer") or "custom"),
        config=config if isinstance(config, dict) else {},
        output_dir=None if run.get("output_dir") is None else str(run["output_dir"]),
    )


def parse(line: str | bytes) -> dict[str, Any]:
    """The record of a line.

    Raises:
        ValueError: it holds none; the message says why and quotes nothing of it.
    """
    try:
        record = json.loads(line, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError("it is not JSON, or torn") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ValueError("it is no record")
    if not _is_number(record.get("time")):
        raise ValueError("it has no time")
    return record


def parsed(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """The record of each line that is one; the others are left out."""
    for line in lines:
        try:
            yield parse(line)
        except ValueError:
            continue


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _number(value: Any) -> float:
    """A float; also of the words that stand for what JSON cannot write."""
    if _is_number(value) or (isinstance(value, str) and value in _NOT_FINITE):
        return float(value)
    raise ValueError("a number is none")


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)


def _step(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _LARGEST_STEP:
        raise ValueError("the step is no step")
    return int(value)


def _metrics(value: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): _number(number) for key, number in value.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is none")
    return value


def _texts(value: Iterable[Any]) -> list[str]:
    return [_text(text) for text in value]


def _rows(value: Iterable[Iterable[Any]]) -> list[list[Any]]:
    return [list(row) for row in value]


def _params(value: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()}


def alert_of(fields: Mapping[str, Any]) -> Alert:
    """The alert of a record's fields; others than `Alert` has are left out.

    Raises:
        KeyError, TypeError, ValueError: they are not those of an alert.
    """
    severity, state = fields["severity"], fields["state"]
    if severity not in SEVERITIES or state not in ("firing", "resolved"):
        raise ValueError("the severity or state of an alert is none")
    evidence = fields.get("evidence") or {}
    return Alert(
        rule=_text(fields["rule"]),
        severity=severity,
        state=state,
        step=_step(fields["step"]),
        first_step=_step(fields["first_step"]),
        value=_optional(fields.get("value")),
        threshold=_optional(fields.get("threshold")),
        message=_text(fields["message"]),
        advice=_text(fields.get("advice", "")),
        evidence={str(name): item if isinstance(item, str) else _number(item) for name, item in evidence.items()},
        key=None if fields.get("key") is None else _text(fields["key"]),
        consequences=tuple(_text(name) for name in fields.get("consequences") or ()),
        times=_step(fields.get("times", 1)),
        notify=fields.get("notify", True) is not False,
    )


def _decode_row(record: Mapping[str, Any]) -> list[Call]:
    alerts = record.get("alerts") or ()
    return [_decode_call("metrics", record), *(("alert", (alert_of(fields),)) for fields in alerts)]


def _decode_end(record: Mapping[str, Any]) -> list[Call]:
    if record["status"] not in ENDED:
        raise ValueError("the status of an end is none")
    return [("status", (record["status"], {}, _step(record["step"])))]


def _decode_call(kind: str, record: Mapping[str, Any]) -> Call:
    method, fields = _CALLS[kind]
    return method, tuple(read(record[name]) for name, read in fields.items())


_CALLS: dict[str, tuple[str, dict[str, Callable[[Any], Any]]]] = {
    "metrics": ("log", {"metrics": _metrics, "step": _step}),
    "table": ("log_table", {"key": _text, "columns": _texts, "rows": _rows, "step": _step}),
    "figure": ("log_figure", {"key": _text, "svg": _text, "step": _step}),
    "heatmap": ("log_heatmap", {"key": _text, "heatmap": Heatmap.of, "step": _step}),
    "checkpoint": ("log_checkpoint", {"name": _text, "metrics": _metrics, "params": _params, "step": _step}),
    "status": ("status", {"status": _text, "metrics": _metrics, "step": _step}),
}
"""Type of a record to the method that it calls, its arguments in order, and how each is read."""
_KINDS = {method: kind for kind, (method, _) in _CALLS.items()}


def _data(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Heatmap):
        return value.as_dict()
    return dict(value) if isinstance(value, Mapping) else value
