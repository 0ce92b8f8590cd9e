"""What is seen of a training's completions, losses and logs, and whether it is what such a trainer should bring."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rldk_tracking.charts.binning import Distribution, LiveHeatmap
from rldk_tracking.charts.spec import COVERAGE, HEATMAP_TITLES, REWARDS
from rldk_tracking.metrics.advantage import RewardRange
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.probes.contract import ContractWatch, is_measured
from rldk_tracking.probes.samples import SampleTable
from rldk_tracking.ranks import Merged
from rldk_tracking.sources.contract import Contract
from rldk_tracking.sources.detect import LogsSource, package_of, source_for
from rldk_tracking.sources.logs import Observation, Source, canonical, named

logger = logging.getLogger(__name__)

SCORES = "reward/score"
"""The column that the distribution of rewards is drawn from."""
READING = "reading "
"""How the places of the shield begin that stand around what is read of a trainer."""
SPEED = "/throughput/"
"""What is measured here, of any trainer."""


class RolloutProbe(Probe):
    """Hands on the rollout of a step, the optimiser's view of it and the trainer's logs; says where groups are tied.

    Of what is computed from tensors the trainer's own numbers are held back; they stand for what does not come. What
    comes neither way of what such a trainer should bring is said once.

    Args:
        log_samples: log the best and worst completions now and then as a table.
    """

    def __init__(self, *, log_samples: bool = False) -> None:
        self.log_samples = log_samples
        self._samples = SampleTable() if log_samples else None
        self._source: Source | None = None
        self._training = Training()
        self._rewards: LiveHeatmap | None = None
        self._range = RewardRange()
        self._contract: ContractWatch | None = None
        self._logged: tuple[int, Mapping[str, float]] = (0, {})
        self._has_log = False
        self._fields: set[str] = set()

    def begin(self, training: Training) -> None:
        self._training = training
        self._range = RewardRange()
        self._contract, self._has_log, self._fields = None, False, set()
        self._rewards = LiveHeatmap(REWARDS, Distribution(HEATMAP_TITLES[REWARDS]), training.publish)
        if training.trainer is None:
            return
        self._source = LogsSource(training.trainer, Contract())
        with training.shield.at("reading the trainer"):
            self._source = source_for(training.trainer, training.report)
            self._source.attach(training.trainer, training.shield)
        self.rows_per_rank = self._source.rows_per_rank
        self.honours_stop = self._source.honours_stop
        self._contract = ContractWatch(self._source.contract)

    def collect(self, data: StepData) -> None:
        if self._source is None:  # a loop of the user's own, or events of something that is no transformers trainer
            data.add(named(data.logs), override=False)
        else:
            seen = Observation(logged=canonical(data.logs))
            with self._training.shield.at("reading a step"):
                seen = self._source.read(data.step, data.logs)
            self._logged = data.step, {key: value for key, value in seen.logged.items() if is_measured(key)}
            data.add({key: value for key, value in seen.logged.items() if not is_measured(key) and SPEED not in key})
            data.add(seen.scalars)
            if self._contract is not None and self._contract.contract is not self._source.contract:
                self._contract = ContractWatch(self._source.contract)  # its logs show more than its methods did
            self._has_log |= bool(data.logs)
            data.rollout_seconds = self._source.rollout_seconds
            with self._training.shield.at("reading a rollout"):
                data.rollout, data.update = seen.rollout, seen.update
                self._fields.update(() if data.rollout is None else data.rollout.present())
        if self._samples is not None:
            self._samples.offer(self._training.publish, data.rollout, data.step)

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> Mapping[str, float]:
        scores = merged.rollout.get(SCORES)
        if scores is not None and self._rewards is not None:
            self._rewards.add(step, scores)
        shares = self._range.shares(merged.rollout)
        if self._contract is None:
            return shares
        at, logged = self._logged
        found = self._contract.see(step, row.keys() | shares.keys(), merged, logged if at == step else {})
        if not self._has_log:
            return {**found, **shares}
        self._say_what_is_missing(step)
        return {**found, **shares, **self._contract.coverage}

    def _say_what_is_missing(self, step: int, is_last: bool = False) -> None:
        news = None if self._contract is None or self._source is None else self._contract.news(is_last)
        if news is None or self._source is None:
            return
        trainer, why = self._training.trainer, "; ".join(self._reasons(self._source))
        name = f"{type(trainer).__name__} ({package_of(trainer)})"
        logger.warning("rldk: %s cannot be read whole%s. %s.", name, f": {why}" if why else "", news)
        sentence = f"{news}{f'; why: {why}' if why else ''}."
        self._training.publish("log_table", COVERAGE, ["what of the trainer is read"], [[sentence]], step)

    def _reasons(self, source: Source) -> list[str]:
        """Why something did not come, as far as that is known."""
        failed = [
            f"{place} failed ({kind})" for place, kind in self._training.shield.failed if place.startswith(READING)
        ]
        lacks = ", ".join(sorted(source.contract.rollout - self._fields))
        if source.missing or failed or not lacks:
            return [*source.missing, *failed]
        return [f"its completions come without {lacks}" if self._fields else "no completions came of it"]

    def late_rows(self) -> Mapping[int, Mapping[str, float]]:
        if self._contract is None:
            return {}
        late, self._contract.late = self._contract.late, {}
        return late

    def state(self) -> Mapping[str, Any]:
        return self._range.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._range.load_state(state)

    def end(self) -> Mapping[str, float]:
        if self._rewards is not None:
            self._rewards.show()
            self._rewards = None
        if self._contract is not None:
            self._contract.release()
            self._say_what_is_missing(self._logged[0], is_last=True)
        if self._source is not None:
            self._source.detach()
            self._source = None
        self._training = Training()
        return {}
