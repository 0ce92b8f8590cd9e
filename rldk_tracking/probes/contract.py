"""Whether a trainer brings what its contract says, and what its logs hold of the rest.

The series of a contract are those that a batch with its fields has, whatever was sampled: a series that cannot be told
of a step's completions, such as a correlation of equal scores, is not missing where the fields came that it is of.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/system/coverage | 1 | rules | higher
        Share of the series of this trainer's contract that came, from its tensors or from its logs. Absent until two
        steps and a log have come, and without a trainer.
        = series that came / series that a trainer with its methods and configuration should bring
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from rldk_tracking.charts.spec import COVERAGE
from rldk_tracking.metrics.advantage import RewardRange
from rldk_tracking.metrics.columns import Table, merge_tails
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.metrics.reward import names
from rldk_tracking.probes.steps import keys_of, rollout_columns, rollout_tails, update_columns
from rldk_tracking.ranks import Merged
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.contract import Contract

SETTLED_ROWS = 2
"""Rows after which what has not come of a rollout or a loss will not come."""
UPDATE_FIELDS = ("old_logprobs", "entropy", "clip_low", "clip_high")
"""Of a `PolicyUpdate`, what a contract may lack."""
OF_TOKENS = ("kl/", "policy/", "ratio/", "sampler/")
"""Columns that are NaN where log-probabilities could not be found for a completion."""


@dataclass
class Seen:
    """What came with a row: names of columns, and of the logs what the row has not."""

    step: int
    columns: frozenset[str]
    logged: dict[str, float]


class ContractWatch:
    """What came of a trainer's contract, row by row.

    Args:
        contract: what should come.

    Attributes:
        series: the keys of the contract.
        contract: what is watched for.
        late: step to numbers of its log that were held back for tensors which did not come.
    """

    def __init__(self, contract: Contract) -> None:
        self.late: dict[int, dict[str, float]] = {}
        self.contract, self._hides = contract, contract.hides_truncated
        rollout, update = a_batch(contract.functions)
        self._table, self._update = tables(rollout, update)
        self._keys = lru_cache(maxsize=64)(self._keys_of)
        lacks: dict[str, Any] = {name: None for name in UPDATE_FIELDS if name not in contract.update}
        promised = columns_that_came(*tables(only(rollout, contract.rollout), replace(update, **lacks)), hides=True)
        self.series = frozenset(contract.numbers | (self._keys(promised) if contract.rollout else frozenset()))
        self._of_update, self._period = self._keys(frozenset(self._update.columns)), contract.period
        self._rows: deque[Seen] = deque(maxlen=max(SETTLED_ROWS, contract.period))
        self._read: frozenset[str] = frozenset()
        self._came: set[str] = set()
        self._from_logs: set[str] = set()
        self._lacking: frozenset[str] | None = None
        self._said: frozenset[str] = frozenset()

    def see(self, step: int, row: Collection[str], merged: Merged, logged: Mapping[str, float]) -> dict[str, float]:
        """A row's columns and the log of its step; returns the numbers of the log that stand for what does not come.

        Args:
            step: the row's.
            row: its keys so far.
            merged: its tables.
            logged: what the trainer logged of the step. What the configuration rules out is 0 there, as the share that
                is clipped where nothing can be.
        """
        held = {
            key: logged[key] for key in logged if key not in row and (key in self.series or source_of(key) != "update")
        }
        columns = columns_that_came(merged.rollout, merged.update, hides=self._hides)
        self._rows.append(Seen(step, columns, held))
        self._came |= self.series.intersection(row)
        if self.is_settled:
            self.release()
        return self.late.pop(step, {})

    def release(self) -> None:
        """Hold nothing back any more of what did not come."""
        readable = self._readable
        self._read |= readable
        for age, seen in enumerate(reversed(self._rows)):
            lost = [key for key in seen.logged if key not in readable and self._was_due(key, age)]
            found = {key: seen.logged.pop(key) for key in lost}
            self._from_logs |= found.keys()
            if found:
                self.late[seen.step] = found

    def _was_due(self, key: str, age: int) -> bool:
        """Whether a series that has come before should have come in the row that is so many rows old.

        Those of a rollout come with it, those of a loss in every row.
        """
        every = 1 if key in self._of_update else self._period
        return key not in self._read or age <= len(self._rows) - every

    @property
    def is_settled(self) -> bool:
        """Whether so many rows have come that what is not there will not come."""
        return len(self._rows) >= SETTLED_ROWS

    @property
    def _readable(self) -> frozenset[str]:
        """The series that the columns of the last rows have."""
        return self._keys(frozenset().union(*(seen.columns for seen in self._rows)))

    @property
    def missing(self) -> frozenset[str] | None:
        """Series that came neither from tensors nor from logs; None while that cannot be known."""
        if not self.is_settled:
            return None
        readable = self._readable
        return self.series - readable - self._from_logs - (self._came - (self._read - readable))

    @property
    def coverage(self) -> dict[str, float]:
        """`rldk/system/coverage`, where it is known."""
        missing = self.missing
        return {} if missing is None or not self.series else {COVERAGE: 1 - len(missing) / len(self.series)}

    def news(self, is_last: bool = False) -> str | None:
        """How many series came, how many of them from logs, and which did not: once for each that did not.

        What came before and comes no more may take a row or two to its end: it is told when no more are lost.
        """
        missing, before = self.missing, self._lacking
        self._lacking = missing
        if missing is None or missing <= self._said:
            return None
        if before is not None and before != missing and not is_last:
            return None
        self._said |= missing
        came = self.series - missing
        # Where no tensors are read, all that came is of its logs.
        from_logs = came & self._from_logs if self._readable else came
        return (
            f"Read: {len(came)} of {len(self.series)} series of this trainer, {len(from_logs)} of them from its logs; "
            f"not: {in_words(missing, self.series)}"
        )

    def _keys_of(self, columns: frozenset[str]) -> frozenset[str]:
        """The series that a batch with these columns can have."""
        table = Table(
            {name: column for name, column in self._table.columns.items() if name in columns},
            {name: tail for name, tail in self._table.tails.items() if name in columns},
            self._table.names,
        )
        update = Table({name: column for name, column in self._update.columns.items() if name in columns})
        return frozenset({*keys_of(table, update), *RewardRange().shares(table)})


@lru_cache(maxsize=4096)
def source_of(key: str) -> str | None:
    """Where the number of a series comes from, see `metrics.keys.Source`; None for one that the catalogue has not."""
    known = lookup(key)
    return None if known is None else known.source


def is_measured(key: str) -> bool:
    """Whether a series is computed from completions and losses, so that a trainer's number of it is second best."""
    return source_of(key) in ("rollout", "update")


def a_batch(functions: Mapping[str, float | None]) -> tuple[Rollout, PolicyUpdate]:
    """Two groups of three completions with every field, in which no two numbers are alike: it has every series."""
    rows, tokens = 6, 12
    mask = torch.arange(tokens)[None] < torch.tensor([[12], [9], [7], [11], [3], [5]])
    waves = (torch.sin(torch.arange(float(rows * tokens)) * step).reshape(rows, tokens) for step in range(2, 99))
    wave = iter(waves).__next__
    rollout = Rollout(
        mask=mask,
        token_ids=(torch.arange(rows * tokens) ** 2 % 7).reshape(rows, tokens),
        logprobs=wave() - 2,
        ref_logprobs=wave() - 2,
        sampler_logprobs=wave() - 2,
        scores=wave()[:, 0],
        rewards={name: wave()[:, 1] for name in functions},
        abstained={name: torch.zeros(rows, dtype=torch.bool) for name in functions},
        reward_weights={name: weight for name, weight in functions.items() if weight is not None},
        non_score_rewards=wave()[:, 2],
        values=wave(),
        returns=wave(),
        advantages=wave()[:, 3],
        raw_advantages=wave()[:, 4],
        group_ids=torch.arange(rows) // 3,
        truncated=torch.arange(rows) % 2 == 0,
    )
    update = PolicyUpdate(
        mask, wave() - 2, wave() - 2, wave()[:, 5], wave() + 1, clip_low=0.2, clip_high=0.2, first_epoch=True
    )
    return rollout, update


def only(rollout: Rollout, fields: Collection[str]) -> Rollout:
    """With no other fields than these."""
    lacks = [name for name in rollout.present() if name not in {*fields, "mask", "abstained", "reward_weights"}]
    without: dict[str, Any] = {name: {} if name == "rewards" else None for name in lacks}
    return replace(rollout, **without)


def tables(rollout: Rollout, update: PolicyUpdate) -> tuple[Table, Table]:
    """As a rank alone has them."""
    columns, steps = (
        {name: column.numpy().astype(np.float64) for name, column in found.items()}
        for found in (rollout_columns(rollout), update_columns(update))
    )
    tails = {
        name: merge_tails(values[mask.bool()].double().numpy()[None], mask.sum()[None].numpy())
        for name, (values, mask) in rollout_tails(rollout).items()
    }
    return Table(columns, tails, names(rollout)), Table(steps)


def columns_that_came(rollout: Table, update: Table, hides: bool) -> frozenset[str]:
    """Names of what is there: of log-probabilities only where one is a number, or where that may be so by chance."""
    columns = {**rollout.columns, **update.columns}
    empty = {name for name, column in columns.items() if name.startswith(OF_TOKENS) and np.isnan(column).all()}
    empty |= {name for name, tail in rollout.tails.items() if tail.count == 0}
    return frozenset({*columns, *rollout.tails} - (set() if hides else empty))


def in_words(missing: Iterable[str], series: Iterable[str]) -> str:
    """Keys by group: a group that is missing whole by its name, else its keys.

    >>> in_words(["kl/a", "kl/b", "policy/c", "policy/d"], ["kl/a", "kl/b", "policy/c", "policy/d", "policy/e"])
    'kl/ (all 2), policy/{c, d}'
    """
    found = []
    for group in sorted({key.rpartition("/")[0] for key in missing}):
        whole, lacking = (sorted(k for k in keys if k.rpartition("/")[0] == group) for keys in (series, missing))
        names = [key.rpartition("/")[2] for key in lacking]
        some = f"{{{', '.join(names)}}}" if len(names) > 1 else names[0]
        found.append(f"{group}/" + (f" (all {len(whole)})" if len(whole) == len(names) > 1 else some))
    return ", ".join(found)
