"""Consoles: each text is made here, in the form in which the named trainer prints."""

from __future__ import annotations

import pytest

from tests.history.formats.conftest import Reads


def test_verl(reads: Reads) -> None:
    """Under Ray, coloured, with numpy's numbers, beside dictionaries of the configuration."""
    text = (
        "{'actor': {'lr': 1e-06, 'entropy_coeff': 0}}\n"
        "\x1b[36m(TaskRunner pid=17)\x1b[0m step:3 - actor/lr:1e-06 - critic/score/mean:np.float64(-0.25) - "
        "actor/grad_norm:nan - val-core/my set/acc/mean@1:0.5\n"
        "(TaskRunner pid=17) step:4 - actor/lr:np.float32(2e-06) - training/epoch:0\r\n"
    )
    found = reads(text)
    assert found.format == "verl's console"
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (
            3,
            {
                "rldk/update/learning_rate": 1e-06,
                "rldk/reward/mean": -0.25,
                "rldk/nan/gradients": 1.0,
                "rldk/eval/my set/accuracy": 0.5,
            },
        ),
        (4, {"rldk/update/learning_rate": 2e-06}),
    ]


def test_dictionaries_between_progress_bars(reads: Reads) -> None:
    """transformers: each row has an epoch. A configuration has none, and joins nothing."""
    text = (
        "{'learning_rate': 0.5, 'beta': 0.1}\n"
        " 25%|##5  | 1/4 [00:00<00:00]\r{'loss': 0.5, 'grad_norm': nan, 'reward': '0.75', 'epoch': 0.1}\r"
        " 50%|{'a': 1} {x}\n"
        "{'loss': inf,\n 'epoch': 0.5}\n"
        '{"loss": 0.25, "epoch": 0.75}\n'
        "{'loss': np.float64(0.5), 'reward': tensor(0.25, device='cuda:0'), 'epoch': 1.0}\n"
        "{'train_runtime': 5.0, 'train_loss': 0.5, 'epoch': 1.0}\n"
    )
    found = reads(text)
    assert found.format == "printed dictionaries"
    assert [entry.row for entry in found.entries] == [
        {"rldk/train/loss": 0.5, "rldk/nan/gradients": 1.0, "rldk/reward/mean": 0.75},
        {"rldk/nan/loss": 1.0},
        {"rldk/train/loss": 0.25},
        {"rldk/train/loss": 0.5, "rldk/reward/mean": 0.25},
    ]


def test_two_trainings_of_one_console(reads: Reads) -> None:
    rows = [f"{{'loss': 0.5, 'reward': {step}.5, 'epoch': 0.{step}}}\n" for step in (1, 2, 3)]
    text = "".join(
        [*rows[:2], "{'train_runtime': 5.0, 'epoch': 0.2}\n", *rows, "{'train_runtime': 5.0, 'epoch': 0.3}\n"]
    )
    found = reads(text)
    assert [entry.row["rldk/reward/mean"] for entry in found.entries] == [1.5, 2.5, 3.5]
    assert found.notes[0].startswith("reading run 2 of 2 in the file; also found 1; '")
    assert len(reads(text, "1").entries) == 2


def test_openrlhf(reads: Reads) -> None:
    text = (
        "2026-01-01 10:00:00 INFO ppo_trainer.py:547 -- \u2728 Global step 1: {'policy_loss': 0.5, 'actor_lr': 1e-06, "
        "'reward': 0.25}\n"
        "INFO \u2728 Evaluation completed in 0:00:03, global_step 1, eval_metrics: {'eval_reward': 0.5}\n"
        "Train epoch [1/1]:  50%|#####     | 1/2 [00:01<00:01,  1.2s/it, act_loss=0.5, reward=0.1]\r"
        "INFO \u2728 Global step 2: {'policy_loss': 0.5, 'actor_lr': 1e-06, 'reward': 0.75}\n"
    )
    assert [(entry.step, entry.row) for entry in reads(text).entries] == [
        (1, {"rldk/train/loss": 0.5, "rldk/update/learning_rate": 1e-06, "rldk/reward/mean": 0.25}),
        (1, {"rldk/eval/reward": 0.5}),
        (2, {"rldk/train/loss": 0.5, "rldk/update/learning_rate": 1e-06, "rldk/reward/mean": 0.75}),
    ]


def test_bars_that_carry_numbers(reads: Reads) -> None:
    text = "".join(
        f"Train step:  50%|##| {step}/9 [00:0{step}<00:01,  1.2s/it, loss={loss}, chosen_reward=0.5, lr=1e-6]\r"
        for step, loss in ((1, 0.9), (1, 0.8), (2, 0.7))
    )
    found = reads(text)
    assert found.format == "progress bars"
    assert [entry.row["rldk/train/loss"] for entry in found.entries] == [0.8, 0.7]


def test_prime_rl(reads: Reads) -> None:
    text = (
        "10:00:00 SUCCESS Step 1 |   5.10s | Reward 0.2500 | Trainable 3/4 (75.0%) | Turns 1.0 | Truncation 5.0%\n"
        "10:00:01   DEBUG Micro Step 2 | Loss 9.0000\n"
        "10:00:02 \x1b[32mSUCCESS\x1b[0m Step 1 | 5.20s | Loss 0.5000 | Entropy 0.7500 | Grad. Norm 0.1250"
        " | LR 1.00e-06 | Throughput 900 tokens/s | MFU 3.0%\n"
        "10:00:03 SUCCESS Step 2 | 5.20s | Reward 0.5000\n"
    )
    found = reads(text)
    assert found.format == "prime-rl's console"
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (
            1,
            {
                "rldk/reward/mean": 0.25,
                "rldk/length/truncated_fraction": 0.05,
                "rldk/train/loss": 0.5,
                "rldk/policy/entropy": 0.75,
                "rldk/grad/norm": 0.125,
                "rldk/nan/gradients": 0.0,
                "rldk/update/learning_rate": 1e-6,
            },
        ),
        (2, {"rldk/reward/mean": 0.5}),
    ]


def test_nemo_rl(reads: Reads) -> None:
    def step(at: int, reward: float) -> str:
        bar = "=" * 25
        found = f"\U0001f4ca Training Results:\n  \u2022 Loss: 0.5000\n  \u2022 Avg Reward: {reward:.4f}\n"
        return f"\n{bar} Step {at}/2 {bar}\n\n{found}\n\u23f1 Timing:\n  \u2022 Total step time: 9.00s\n"

    valid = "\U0001f4ca Validation Results:\n    \u2022 Accuracy: 0.7500\n    \u2022 Samples processed: 8\n"
    found = reads(step(1, 0.25) + step(2, 0.5) + valid + step(1, 0.75))
    assert found.format == "NeMo-RL's console"
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (1, {"rldk/train/loss": 0.5, "rldk/reward/mean": 0.25}),
        (2, {"rldk/train/loss": 0.5, "rldk/reward/mean": 0.5}),
        (2, {"rldk/eval/accuracy": 0.75}),
        (3, {"rldk/train/loss": 0.5, "rldk/reward/mean": 0.75}),
    ]


@pytest.mark.parametrize("text", ["{'a': " + "-" * 60_000 + "1}", "{'a': " + "(" * 60_000 + "}", "{'a': b'x', **c}"])
def test_another_programs_words_are_no_rows(text: str, reads: Reads) -> None:
    assert [entry.row for entry in reads(f"{text}\n{{'reward': 0.5}}\n").entries] == [{"rldk/reward/mean": 0.5}]
