"""Reward, advantage, length, diversity: what the task says and what the completions look like."""

from __future__ import annotations

from rldk_tracking.health.rules import Rule

TIED = ("rldk/reward/group_tied_fraction",)

RULES = (
    Rule(
        id="reward.no_signal",
        keys=TIED,
        condition="ties",
        parameters={"solved": False},
        settings={"ceiling": "max_score"},
        persistence=(1, 1),
        clear_after=3,
        cooldown_steps=20,
        message="{value:.0%} of the {tie} since step {first_step}: nothing to learn from.",
        advice="Look at the rewards: too hard, too easy, or a parser that never matches. More completions per prompt, "
        "other prompts, or partial credit bring a spread back.",
        quotes=("num_generations", "temperature", "max_completion_length"),
    ),
    Rule(
        id="reward.saturated",
        keys=TIED,
        condition="ties",
        parameters={"solved": True},
        settings={"ceiling": "max_score"},
        severity="info",
        persistence=(3, 4),
        clear_after=5,
        cooldown_steps=50,
        message="The reward is at its ceiling ({reward:.3g}) and {value:.0%} of the {tie}: solved.",
        advice="Stop, or go on with harder prompts.",
    ),
    Rule(
        id="reward.silent_function",
        keys=("rldk/reward/function/<name>/none_fraction",),
        condition="silent_function",
        clear_after=1,
        cooldown_steps=50,
        message="{functions} scored nothing in {value:.0f} rollouts: None for every completion.",
        advice="Look at what the function needs (a column, a service, a parser) and when it returns None. Raise "
        "`rollouts` if its part of the data is that rare.",
    ),
    Rule(
        id="reward.collapse",
        keys=("rldk/reward/mean",),
        condition="drop",
        persistence=(3, 4),
        clear_after=5,
        cooldown_steps=20,
        silences=("reward.no_signal",),
        message="The reward fell to {value:.3g} from {best:.3g} and stays there, under {threshold:.3g}.",
        advice="Go back to the checkpoint before the fall. Look at KL, entropy and length just before it: a learning "
        "rate that is too high is the usual cause.",
        quotes=("learning_rate", "beta", "kl_coef", "max_grad_norm"),
    ),
    Rule(
        id="reward.hacking",
        keys=("rldk/reward/mean",),
        condition="hacking",
        warm_up_samples=10,
        persistence=(3, 6),
        clear_after=5,
        cooldown_steps=50,
        message="The reward rises while other signals contradict it: {against}.",
        advice="Read completions of high reward. Stop at the checkpoint where the held-out score was best, fix the "
        "reward or raise the KL weight.",
        quotes=("beta", "kl_coef", "learning_rate"),
    ),
    Rule(
        id="advantage.scale",
        keys=("rldk/advantage/abs_p99",),
        condition="level",
        parameters={"threshold": 20.0, "clear": 10.0},
        persistence=(3, 5),
        message="The largest advantages are {value:.3g} in size (limit {threshold:.3g}): a few samples dominate.",
        advice="Clip or rescale the rewards; look for an outlier of the reward function.",
        quotes=("scale_rewards", "whiten_rewards"),
    ),
    Rule(
        id="length.explosion",
        keys=("rldk/length/mean",),
        condition="from_start",
        parameters={
            "direction": "up",
            "share": 2.0,
            "change": 100.0,
            "capped_key": "rldk/length/truncated_fraction",
            "capped_share": 0.6,
            "span": 4.0,
        },
        persistence=(5, 6),
        clear_after=3,
        cooldown_steps=20,
        message="Completions are {value:.0f} tokens long, against {start:.0f} when the run began.",
        advice="See whether the reward or the loss favours length (loss_type, a per-sequence mean), and penalise "
        "overlong completions.",
        quotes=("loss_type", "max_completion_length", "response_length"),
    ),
    Rule(
        id="length.collapse",
        keys=("rldk/length/mean",),
        condition="from_start",
        parameters={"direction": "down", "share": 0.8, "change": 5.0, "span": 4.0},
        persistence=(3, 4),
        clear_after=3,
        cooldown_steps=20,
        message="Completions are {value:.1f} tokens long, against {start:.0f} when the run began.",
        advice="Read the completions: a fixed short answer is the usual end of a reward that punishes mistakes more "
        "than silence.",
        quotes=("beta", "max_completion_length"),
    ),
    Rule(
        id="length.truncated",
        keys=("rldk/length/truncated_fraction",),
        condition="level",
        parameters={"threshold": 0.4, "clear": 0.3, "span": 8.0},
        warm_up_samples=2,
        persistence=(4, 5),
        clear_after=3,
        cooldown_steps=20,
        silences=("length.explosion",),
        message="{value:.0%} of the completions run into the length limit since step {first_step}.",
        advice="Raise the limit, or reward shorter answers; a reward that needs the end of the answer is blind here. "
        "If none ever ends, the end-of-sequence token is wrong.",
        quotes=("max_completion_length", "response_length", "stop_token"),
    ),
    Rule(
        id="diversity.collapse",
        keys=("rldk/diversity/unique_fraction", "rldk/diversity/distinct_2"),
        condition="from_start",
        parameters={"direction": "down", "share": 0.7, "beyond": 0.3, "unless_learned": True},
        persistence=(8, 8),
        cooldown_steps=20,
        message="Only {value:.0%} of the completions differ, against {start:.0%} when the run began.",
        advice="Raise temperature, and check whether the task is solved or the reward prefers one phrase.",
        quotes=("temperature", "num_generations"),
    ),
)
