"""What to look at, as data: sections of charts, in the order in which a person reads a run.

One specification for every backend. A chart is one plot of one or more series; a limit is drawn as a series of its own,
which is there only where the user gave one. Which charts a run shows follows from its data: a chart without data, and a
section without charts, does not appear.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

VERSION = 2
"""Raised when the same charts are to be drawn in another way."""
VIEW_NAME = "RL health (rldk)"

REWARDS = "rldk/charts/reward_distribution"
GRADIENTS = "rldk/charts/layer_gradients"
COVERAGE, COVERAGE_TAG = "rldk/system/coverage", "rldk.coverage"
"""The series of how much of a trainer is read, the table that says what is not, and its sentence in a run's tags."""
"""Keys of the heat-maps."""
HEATMAP_TITLES = {
    REWARDS: "Rewards of the completions",
    GRADIENTS: "Gradient norm of each layer over the steps, dark where large",
}

PPO = ("PPOTrainer",)
GROUPS = ("GRPOTrainer", "RLOOTrainer")
_PLACEHOLDER = re.compile(r"<\w+>")


@dataclass(frozen=True, slots=True)
class Chart:
    """One plot.

    Attributes:
        key: the series that the plot is about. With a `<placeholder>`, all series that fit.
        title: for backends that show one; elsewhere the key speaks.
        beside: further series in the same plot.
        limit: the series of the limit that the user gave, drawn beside them.
        bounds: lowest and highest value of the axis, where the unit has such.
        logarithmic: whether the values go over magnitudes.
        trainers: class names of the trainers that the chart is about; empty for all.
    """

    key: str
    title: str
    beside: tuple[str, ...] = ()
    limit: str | None = None
    bounds: tuple[float, float] | None = None
    logarithmic: bool = False
    trainers: tuple[str, ...] = ()

    def concerns(self, trainer: str | None) -> bool:
        """Whether a run of this trainer shows the plot."""
        return not self.trainers or trainer in self.trainers or trainer not in (*PPO, *GROUPS)

    def series(self, keys: Collection[str]) -> list[str]:
        """The series of this plot that are among `keys`; none where the first of them is missing."""
        found = [key for name in (self.key, *self.beside) for key in matching(name, keys)]
        if not found or not matching(self.key, keys):
            return []
        return [*found, *matching(self.limit, keys)] if self.limit is not None else found


@dataclass(frozen=True, slots=True)
class Section:
    """Charts that belong together, under a heading.

    Attributes:
        name: the heading.
        charts: plots of series.
        heatmaps: keys of the heat-maps that belong to them, see `rldk_tracking.charts.heatmap`.
    """

    name: str
    charts: tuple[Chart, ...]
    heatmaps: tuple[str, ...] = ()


OWN = "Numbers of your own"
"""The section of series outside the catalogue."""
SHARE = (0.0, 1.0)

SECTIONS: tuple[Section, ...] = (
    Section(
        "Health and alerts",
        (
            Chart("rldk/health/score", "Health score", bounds=SHARE),
            Chart("rldk/alerts/firing", "Open alerts"),
            Chart("rldk/health/stability", "Training stability", bounds=SHARE),
            Chart("rldk/health/convergence", "Convergence", bounds=SHARE),
            Chart("rldk/health/policy_collapse_risk", "Risk of policy collapse", bounds=SHARE),
            Chart("rldk/health/reward_hacking_risk", "Risk of reward hacking", bounds=SHARE),
            Chart("rldk/nan/weights", "Not finite", beside=("rldk/nan/gradients", "rldk/nan/loss", "rldk/nan/reward")),
        ),
    ),
    Section(
        "Rollouts",
        (
            Chart(
                "rldk/reward/mean",
                "Reward",
                beside=("rldk/reward/gold", "rldk/reward/unweighted", "rldk/eval/reward"),
            ),
            Chart("rldk/reward/p50", "Reward percentiles", beside=("rldk/reward/p10", "rldk/reward/p90")),
            Chart("rldk/reward/std", "Spread of the reward", beside=("rldk/reward/group_std_mean",)),
            Chart("rldk/reward/function/<name>/mean", "Reward functions"),
            Chart(
                "rldk/reward/group_tied_fraction",
                "Groups without a signal",
                beside=("rldk/reward/group_tied_fraction_all_max", "rldk/reward/group_tied_fraction_all_min"),
                bounds=SHARE,
                trainers=GROUPS,
            ),
            Chart("rldk/reward/pairwise_corr/min", "Agreement of the reward functions", trainers=GROUPS),
            Chart("rldk/reward/non_score_share", "Share of the KL penalty", trainers=PPO),
            Chart("rldk/preference/accuracy", "Preference accuracy", bounds=SHARE),
            Chart(
                "rldk/preference/margin",
                "Preference margin",
                beside=("rldk/preference/reward_chosen", "rldk/preference/reward_rejected"),
            ),
            Chart(
                "rldk/preference/chosen_logps_drift",
                "Drift of the log-probabilities",
                beside=("rldk/preference/rejected_logps_drift",),
            ),
        ),
        heatmaps=(REWARDS,),
    ),
    Section(
        "KL and policy",
        (
            Chart("rldk/kl/ref_k3", "KL to the reference", beside=("rldk/kl/ref_k1",), limit="rldk/kl/limit"),
            Chart("rldk/kl/ref_p99", "KL at the tokens that drifted most"),
            Chart("rldk/policy/entropy", "Entropy"),
            Chart("rldk/policy/clip_fraction", "Clip fraction", limit="rldk/policy/limit", bounds=SHARE),
            Chart("rldk/policy/approx_kl", "KL of the update"),
            Chart(
                "rldk/policy/ratio_mean",
                "Importance ratio",
                beside=("rldk/policy/ratio_max", "rldk/policy/first_epoch_ratio"),
            ),
            Chart("rldk/policy/ess", "Effective sample size", beside=("rldk/policy/ess_sequence",), bounds=SHARE),
            Chart("rldk/sampler/k3", "Sampler against trainer", beside=("rldk/sampler/logp_diff_mean",)),
        ),
    ),
    Section(
        "Sampling beside the training",
        (
            Chart("rldk/async/staleness/mean", "Age of the samples", beside=("rldk/async/staleness/max",)),
            Chart("rldk/async/stale_fraction", "Thrown away as stale", bounds=SHARE),
            Chart("rldk/async/wait_fraction", "The trainer waits", bounds=SHARE),
            Chart("rldk/async/queue_length", "Completions in the queue"),
            Chart("rldk/async/sync_seconds", "Seconds to send the weights"),
        ),
    ),
    Section(
        "Value and advantage",
        (
            Chart("rldk/value/explained_variance", "Explained variance", trainers=PPO),
            Chart("rldk/value/loss", "Value loss", logarithmic=True, trainers=PPO),
            Chart("rldk/value/mean", "Value", beside=("rldk/value/bias",), trainers=PPO),
            Chart("rldk/advantage/std", "Spread of the advantages", beside=("rldk/advantage/raw_std",)),
            Chart("rldk/advantage/abs_p99", "Largest advantages"),
            Chart("rldk/advantage/fraction_positive", "Share that is reinforced", bounds=SHARE),
        ),
    ),
    Section(
        "Length and diversity",
        (
            Chart("rldk/length/mean", "Length", beside=("rldk/length/p95", "rldk/length/max")),
            Chart(
                "rldk/length/truncated_fraction",
                "Cut off at the limit",
                beside=("rldk/length/eos_fraction",),
                limit="rldk/length/limit",
                bounds=SHARE,
            ),
            Chart("rldk/reward/within_group_length_corr", "Does length pay?", beside=("rldk/advantage/length_corr",)),
            Chart(
                "rldk/diversity/unique_fraction",
                "Diversity",
                beside=("rldk/diversity/distinct_1", "rldk/diversity/distinct_2"),
                bounds=SHARE,
            ),
            Chart("rldk/diversity/repetition", "Repetition", bounds=SHARE),
            Chart("rldk/diversity/within_group_overlap", "Likeness within a group", bounds=SHARE, trainers=GROUPS),
        ),
    ),
    Section(
        "Tools",
        (Chart("rldk/tools/call_frequency", "Calls"), Chart("rldk/tools/failure_frequency", "That fail", bounds=SHARE)),
    ),
    Section(
        "Gradients and updates",
        (
            Chart("rldk/train/loss", "Loss"),
            Chart("rldk/grad/norm", "Gradient norm", limit="rldk/grad/limit", logarithmic=True),
            Chart(
                "rldk/grad/layer_norm/p50",
                "Gradient norm of the layers",
                beside=("rldk/grad/layer_norm/min", "rldk/grad/layer_norm/max"),
                logarithmic=True,
            ),
            Chart(
                "rldk/update/ratio/p50",
                "Update against weight",
                beside=("rldk/update/ratio/p10", "rldk/update/ratio/p90"),
                logarithmic=True,
            ),
            Chart("rldk/update/learning_rate", "Learning rate", beside=("rldk/update/effective_lr",)),
            Chart("rldk/grad/layers_without", "Layers at rest", beside=("rldk/update/frozen_layers",)),
            Chart("rldk/grad/noise_scale", "Gradient noise scale"),
            Chart("rldk/weight/norm", "Weight norm"),
        ),
        heatmaps=(GRADIENTS,),
    ),
    Section(
        "Checkpoints",
        (
            Chart("rldk/checkpoint/score", "Checkpoint health", bounds=SHARE),
            Chart("rldk/checkpoint/drift", "Drift of the weights", beside=("rldk/checkpoint/drift_previous",)),
            Chart("rldk/checkpoint/nonfinite", "Tensors that are not finite"),
            Chart("rldk/checkpoint/size_gib", "Size on disk"),
        ),
    ),
    Section(
        "Resources",
        (
            Chart(
                "rldk/resources/gpu_memory_gib",
                "GPU memory",
                beside=("rldk/resources/gpu_memory_reserved_gib", "rldk/resources/gpu_memory_peak_gib"),
            ),
            Chart(
                "rldk/memory/parameters_gib",
                "What the memory holds",
                beside=("rldk/memory/optimizer_gib", "rldk/memory/gradients_gib", "rldk/memory/activations_gib"),
            ),
            Chart("rldk/resources/host_rss_gib", "Host memory"),
            Chart("rldk/resources/gpu_utilisation", "GPU utilisation", bounds=SHARE),
            Chart("rldk/throughput/step_seconds", "Seconds a step"),
            Chart("rldk/throughput/tokens_per_second", "Tokens a second"),
            Chart("rldk/throughput/rollout_fraction", "Share of the rollout", bounds=SHARE),
            Chart("rldk/system/overhead_fraction", "Cost of the diagnostics"),
            Chart(COVERAGE, "Share of the trainer's series that came"),
            Chart("rldk/system/tracker_errors", "Writes not taken"),
        ),
    ),
)


def sections(keys: Collection[str], trainer: str | None = None, given: Sequence[Section] = SECTIONS) -> list[Section]:
    """The sections for which there is data, with the charts for which there is.

    Args:
        keys: the series that exist. Those outside the catalogue, which a rule or the user asks for, have a chart each.
        trainer: class name of the trainer whose run is looked at. A name that is not known here, such as that of a
            subclass, is shown all that there is data for.
        given: the specification.
    """
    chosen = []
    for section in given:
        charts = tuple(chart for chart in section.charts if chart.concerns(trainer) and chart.series(keys))
        if charts:
            chosen.append(replace(section, charts=charts))
    own = tuple(Chart(key, key) for key in sorted(keys) if not key.startswith("rldk/"))
    return [*chosen, Section(OWN, own)] if own else chosen


def chart_of(key: str) -> Chart:
    """The first chart of the specification that is about a series; a plain one where none is."""
    charts = (chart for section in SECTIONS for chart in section.charts)
    return next((chart for chart in charts if chart.key == key), Chart(key, key))


def charted(keys: Iterable[str], given: Sequence[Section] = SECTIONS) -> set[str]:
    """Those of the series that some chart of the specification draws."""
    known = list(keys)
    own = {key for key in known if not key.startswith("rldk/")}
    return own | {key for section in given for chart in section.charts for key in chart.series(known)}


def signature(chosen: Sequence[Section]) -> str:
    """Sixteen hexadecimal digits that change when anything about the charts does."""
    text = json.dumps([VERSION, *map(asdict, chosen)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def matching(name: str, keys: Collection[str]) -> list[str]:
    """The series that a name of the specification stands for: itself, or what fits its `<placeholder>`, in order."""
    if not _PLACEHOLDER.search(name):
        return [name] if name in keys else []
    pattern = re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(name)))
    return sorted(key for key in keys if pattern.fullmatch(key))
