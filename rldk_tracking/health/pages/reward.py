"""Pages of the rules about reward, advantage, length and diversity."""

from __future__ import annotations

from rldk_tracking.health.pages.page import Page

PAGES = {
    "reward.no_signal": Page(
        "GRPO and RLOO learn from differences within a group. Where all completions of a prompt get the same reward "
        "the advantage is 0, and only the KL term moves the policy. Loss and gradient may look normal.",
        (
            "The task is too hard: everything scores the minimum.",
            "The reward function never matches (a parser, a format, an answer column that is missing).",
            "Completions are cut before the answer (see length.truncated), or all the same (see diversity.collapse).",
        ),
        (
            "Print ten completions with their rewards.",
            "Partial credit, easier prompts first, or more completions a prompt (num_generations).",
            "Drop prompts whose groups are always tied.",
        ),
        "No fixed count: as many all-tied rows in a row as would be chance in one run of 100,000, given how often rows "
        "were all tied before; or a share of tied groups surely above 75 % over 50 rows (93 % near the ceiling, where "
        "80 % are normal in published runs). `reward_std` alone is not trusted: since TRL 0.27 it is the spread of the "
        "batch, which is above 0 while every group is tied.",
    ),
    "reward.saturated": Page(
        "The task is solved: there is no fault, and nothing more to learn here.",
        ("The task is easy for this model.", "If it solved itself suddenly: a shortcut in the reward."),
        ("Stop, or go on with harder prompts.", "Read a few completions of full reward, to be sure."),
        "Tied groups while the smoothed reward is at the task's ceiling, or at the highest of the run after a climb of "
        "more than single rewards ever differed.",
    ),
    "reward.silent_function": Page(
        "A reward function that returns None has no opinion, and TRL leaves it out. One that never has any is not "
        "optimised at all, and nothing in the total shows it.",
        (
            "A column that it reads is missing or has another name, and it gives up on every row.",
            "A service that it asks is down, and it returns None in place of an error.",
            "Its part of the data does not come: a mixture in which it is rare.",
        ),
        (
            "Call it on ten completions of the last step.",
            "Look since when rldk/reward/function/<name>/none_fraction is 1.",
        ),
        "20 rollouts in a row without a score. A function that scores something in one rollout of three is silent for "
        "so long once in 3,000 times. Completions on which all functions abstain are no fault, and TRL gives them an "
        "advantage of 0.",
    ),
    "reward.collapse": Page(
        "What had been learned is lost. It rarely comes back by itself, and everything after it is spent for nothing.",
        (
            "A learning rate that is too high, or a jump of it.",
            "A runaway of length into the limit, so that answers are cut off.",
            "The reward function began to fail (a timeout, a service that is down): look for exact zeros.",
        ),
        (
            "Go back to the checkpoint before first_step.",
            "Look at KL, entropy, length and gradient norm in the ten rows before: the first that moved is the cause.",
        ),
        "The smoothed reward is below the best level by 2.5 times the widest wander of the run and by 35 % of its "
        "height, or by 85 % of its height whatever the wander, in three of four rows. On autocorrelated noise without "
        "a fall (correlation 0.6), under one run in ten of 300 steps alarms.",
    ),
    "reward.hacking": Page(
        "The policy optimises the measure and not the task. From the reward alone it cannot be told from success, so "
        "that without a second signal this rule says unknown. It does not warn early: it needs the two to part.",
        (
            "The reward has a shortcut: length, a phrase, a format, a verifier that accepts too much.",
            "A reward model far from the data that it was trained on.",
            "A KL weight that is too small to keep the policy where the reward model knows what it says.",
        ),
        (
            "Read the completions of highest reward.",
            "Log a held-out score (gold_score_fn, rldk/reward/gold, or a reward function of weight 0) and keep the "
            "checkpoint where it was best.",
            "Close the shortcut; penalise length; raise the KL weight.",
        ),
        "The reward rose by 2 standard deviations of its noise, and a held-out score lags by 5 of them with less "
        "than 35 % of the rise; one that began at 0.9 of 1 has no room and must fall, and that of a reward function of "
        "weight 0 counts only where both lie within [0, 1] and it below, since it may watch a format (no alarm in 100 "
        "synthetic healthy runs of 1,000 rows, autocorrelation "
        "0.6 and 0.85); or two other signals contradict: perplexity 1.5 times its start, length that grew by "
        "half and correlates with reward at 0.5, reward functions that correlate below -0.3, KL above 0.7, lost "
        "diversity. The last two never count alone, because learning has them too.",
    ),
    "advantage.scale": Page(
        "One completion with an advantage of twenty decides the direction of the whole update.",
        ("An outlier of the reward function.", "A group with a tiny spread that normalisation blew up."),
        ("Clip the rewards.", "Switch the division by the group's deviation off (scale_rewards='none')."),
        "20: whitened advantages of a batch of 1,000 reach 3 to 4, and of the most skewed binary rewards 10.",
    ),
    "length.explosion": Page(
        "Cost grows with length, and what comes next is the limit, where answers are cut and rewards end.",
        (
            "A loss that averages over sequences favours long wrong answers (arXiv:2503.20783).",
            "The reward pays for length, openly or not: see rldk/reward/within_group_length_corr.",
            "The policy forgot to end: look at rldk/length/eos_fraction.",
        ),
        (
            "Penalise overlong completions softly before the limit (arXiv:2503.14476).",
            "A token-level loss (loss_type 'dapo' or 'dr_grpo').",
        ),
        "Three times the start and 100 tokens more: within published healthy runs the longest is at most 3.0 times the "
        "median in 95 %. Where most completions hit the limit, 1.6 times, because the limit hides the rest.",
    ),
    "length.collapse": Page(
        "Completions of a few tokens carry no reasoning, and are usually one fixed answer.",
        (
            "A reward that punishes mistakes more than silence.",
            "A length penalty that is too strong.",
            "The end-of-sequence token got a reward of its own.",
        ),
        ("Read the completions.", "Reward attempts, and weaken the penalty."),
        "A fifth of the start and 5 tokens less, smoothed over four rows.",
    ),
    "length.truncated": Page(
        "A completion that is cut has no answer: its reward is blind, and the policy is never taught to end. Most "
        "failed runs that strangers published show this first.",
        (
            "The limit is below what the model needs.",
            "The model does not know the end-of-sequence token of the template (a base model, a wrong pad token).",
            "A runaway of length: see length.explosion.",
        ),
        (
            "If it fires from the first rows: check eos_token_id, the chat template and stop strings.",
            "Raise max_completion_length (response_length), or mask cut completions (mask_truncated_completions).",
        ),
        "40 % smoothed over eight rows, in four of five: the median of published healthy runs is 0, and runs with a "
        "quarter cut still learned.",
    ),
    "diversity.collapse": Page(
        "If all completions are the same there is nothing to compare.",
        ("Entropy is gone (see entropy.collapse).", "The reward prefers one phrase.", "The temperature is near 0."),
        ("Raise the temperature.", "Look for the phrase, and for why it scores."),
        "Less than 30 % distinct and less than 30 % of the start, eight rows in a row. A gradual loss that the reward "
        "pays for is excused: a solved task has few right answers.",
    ),
}
