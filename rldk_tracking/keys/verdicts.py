"""Series of what the rules say, and of these diagnostics themselves."""

from __future__ import annotations

from rldk_tracking.keys.key import SCORE, Key

KEYS = (
    Key(
        "rldk/health/score",
        SCORE,
        "The run's health: first by the worst severity, then by how many families of rules have it.",
        "of c families at 0.1 and w at 0.5: 0.1 / (c + w / (w + 1)) where c > 0, else 0.1 + 0.4 / w where w > 0, else "
        "1; the family `health` does not count",
        "rules",
        "higher",
    ),
    Key(
        "rldk/health/spike_free_fraction",
        SCORE,
        "Share of the recent rows without a jump, a spike or a NaN; absent for the first 20 rows.",
        "1 - exponential mean over 20 rows (weight 2/21, from 0 in the first row) of whether one of nan.*, kl.spike, "
        "grad.explosion, value.loss, update.too_large and entropy.explosion was breached in the row before",
        "rules",
        "higher",
    ),
    Key(
        "rldk/health/stability",
        SCORE,
        "How steadily training goes; absent for the first 20 rows.",
        "the smaller of spike_free_fraction and 1 / (1 + (v / 2)^2), v being, of KL to the reference, gradient norm "
        "and loss, the middle one (of two the smaller, of one none) of median |x - x before| over 20 rows / median |x| "
        "over 48 rows; v of pure noise around 0 is 1.4",
        "rules",
        "higher",
    ),
    Key(
        "rldk/health/convergence",
        SCORE,
        "How the reward comes along, in preference training rldk/preference/margin: 0 diverging, 0.5 plateau, 0.75 "
        "improving, 1 solved.",
        "1 while reward.saturated fires; 0 while nan.weights, nan.loss, reward.collapse or policy.collapse fires or is "
        "held back by its cause; else by the Mann-Kendall score S of the blocks of convergence_slope, and the change "
        "C = slope x steps / noise, the noise being an exponential mean (weight 1/50) of 0.8862 |change of the "
        "reward|: 0.75 where S > 2.6 and C > 0.6, 0 where S < -2.6 and C < -0.6, else 0.5",
        "rules",
    ),
    Key(
        "rldk/health/policy_collapse_risk",
        SCORE,
        "Signs that the policy has become deterministic without having solved the task.",
        "mean over entropy, diversity and reward spread of (1 - left) / 0.9 within [0, 1], left being the exponential "
        "mean over 3 rows as a share of the median of the first 5; 0 for a reward that climbed and is at its best",
        "rules",
        "lower",
    ),
    Key(
        "rldk/health/reward_hacking_risk",
        SCORE,
        "Signs that the reward rises for the wrong reason; absent without a second signal.",
        "(1 where a held-out score has not followed, else 0.4 for each of perplexity, length and disagreement of the "
        "reward functions that contradicts, and with one of them 0.2 for each of KL and diversity, at most 1) x (rise "
        "of the reward in standard deviations / 2 within [0, 1]); see `explain reward.hacking`",
        "rules",
        "lower",
    ),
    Key(
        "rldk/health/convergence_slope",
        "reward/step",
        "How fast the reward moves, in preference training rldk/preference/margin.",
        "median of the slopes of all pairs (Theil-Sen) of at most 32 blocks of equally many rows, each the means of "
        "its steps and rewards; of preference training without a reward, the margin",
        "rules",
    ),
    *(
        Key(
            f"rldk/health/convergence_slope_{name}",
            "reward/step",
            f"{end} end of the slope's interval, rows taken for independent.",
            f"slope of rank {rank} of N, C = 1.96 sqrt(n (n - 1) (2n + 5) / 18) for n blocks (Sen 1968, 95 %)",
            "rules",
        )
        for name, end, rank in (("low", "Lower", "(N - C) / 2"), ("high", "Upper", "(N + C) / 2 + 1"))
    ),
    Key(
        "rldk/health/<family>",
        SCORE,
        "Health in one family of rules (nan, kl, reward, ...); absent until one of its rules has judged.",
        "lowest over its rules of 0.1 for critical, 0.5 for warning, else 1; a rule that its cause holds back has the "
        "severity of the cause",
        "rules",
        "higher",
    ),
    Key(
        "rldk/health/memory_efficiency",
        SCORE,
        "Use that is made of the GPU memory that torch reserves.",
        "gpu_memory_peak_gib / gpu_memory_reserved_gib, at most 1",
        "rules",
        "higher",
    ),
    Key(
        "rldk/alerts/rules_judged",
        "rules",
        "Rules that have seen enough of their data to fire.",
        "count of rules past their warm-up",
        "rules",
    ),
    Key(
        "rldk/alerts/rules_warming_up",
        "rules",
        "Rules that have data, but too little of it yet to fire.",
        "count",
        "rules",
    ),
    Key("rldk/alerts/rules_without_data", "rules", "Rules whose data never came.", "count", "rules"),
    Key(
        "rldk/alerts/core_rules_judged",
        "rules",
        "Of the rules that have judged, those on how learning goes; with none the run's health is unknown.",
        "count over the families reward, kl, policy, entropy, value, advantage, preference, grad, update and own ones",
        "rules",
    ),
    Key("rldk/alerts/firing", "alerts", "Alerts that are open.", "count", "rules", "lower", "max"),
    Key(
        "rldk/system/tracker_errors",
        "writes",
        "Writes that a tracker has not taken so far.",
        "count",
        "host",
        "lower",
        "sum",
    ),
    Key(
        "rldk/system/trackers_down",
        "trackers",
        "Trackers that do not take our writes at present.",
        "count",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/system/rank_spread/seconds",
        "s",
        "By how much the slowest rank holds up the fastest when sampling; what a backward pass waits is not seen.",
        "max - min of the ranks' seconds in gathers",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/system/rank_spread/weights",
        "1",
        "How far the ranks' copies of the weights have drifted apart; 0 while they are copies.",
        "(max - min) / max of the ranks' weight norms",
        "optimizer",
        "lower",
        "max",
    ),
    Key("rldk/system/overhead_fraction", "1", "What these diagnostics cost.", "time here / wall time", "host", "lower"),
    Key(
        "rldk/system/training",
        "trainings",
        "Which training a row is of, where several of one process write into one tracker's run; absent in the first.",
        "number of trainings that have begun to write into the run",
        "host",
        "none",
        "max",
    ),
    Key(
        "rldk/run/silent_seconds",
        "s",
        "For how long nothing was heard of the training. Judged beside it, in no row of its own.",
        "seen by the watchdog: no event of the callback and no row in the journal",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/run/limit_seconds",
        "s",
        "For how long nothing may be heard in the phase that the training is in. Judged beside it, as the silence.",
        "see the page of run.hung",
        "host",
        "none",
        "max",
    ),
    Key(
        "rldk/run/gone",
        "1",
        "1 where the training ended without saying so or by an exception, 0 where it trains. Judged beside it.",
        "the training's process is gone, or lives and trains no more",
        "host",
        "lower",
        "max",
    ),
    Key(
        "rldk/<group>/limit",
        "that of the series",
        "A limit that the user gave for a series of the group, to be seen beside it.",
        "the threshold of the rule",
        "user",
        "none",
        "max",
    ),
)
