"""Three ways to build on the diagnostics: a callback that acts on them, an own backend, an own training loop.

python examples/custom_callbacks.py
"""

from collections.abc import Mapping
from typing import Any

import torch

from rldk_tracking import Alert, InMemoryTracker, RLDKCallback, Rollout
from rldk_tracking.demo import grpo_trainer, prompts, reward, tiny_model, tiny_tokenizer
from rldk_tracking.trackers.base import Tracker


class StopWhenSolved(RLDKCallback):
    """A callback that reads the latest values and ends the training when the reward is high enough."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_begin(args, state, control, **kwargs)
        if (self.metrics.reward_mean or 0.0) > 0.8:
            print(f"solved at step {state.global_step}: reward {self.metrics.reward_mean:.2f}")
            control.should_training_stop = True


class Terminal(Tracker):
    """A backend: only `log` is required. A step arrives once, with plain finite numbers."""

    name = "terminal"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step % 10 == 0:
            print(f"step {step}: reward {metrics['rldk/reward/mean']:.2f}, health {metrics.get('rldk/health/score')}")

    def alert(self, alert: Alert) -> None:
        print(f"step {alert.step}: {alert.title}: {alert.message}")


def with_a_trainer() -> None:
    """The first two ways."""
    trainer = grpo_trainer("custom_output", max_steps=80, callbacks=[StopWhenSolved(trackers=[Terminal()])])
    trainer.train()


def with_a_loop(steps: int = 20) -> InMemoryTracker:
    """The third: REINFORCE in thirty lines, which hands each step's rollout over itself."""
    memory = InMemoryTracker()
    model, tokenizer = tiny_model(), tiny_tokenizer()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    questions = prompts(16 * steps)
    with RLDKCallback(trackers=[memory]) as monitor:
        for step in range(1, steps + 1):
            batch = [question for question in questions[4 * step : 4 * step + 4] for _ in range(4)]
            inputs = tokenizer(batch, return_tensors="pt", padding=True)
            start = inputs["input_ids"].shape[1]
            sampled = model.generate(**inputs, max_new_tokens=8, do_sample=True, top_k=0)
            tokens = sampled[:, start:]
            ended = (tokens == tokenizer.eos_token_id).cumsum(dim=1)
            mask = (ended == 0) | ((ended == 1) & (tokens == tokenizer.eos_token_id))
            texts = tokenizer.batch_decode(tokens.masked_fill(~mask, tokenizer.pad_token_id), skip_special_tokens=True)
            scores = torch.tensor(reward(batch, texts))

            attention = torch.cat([inputs["attention_mask"], mask.long()], dim=1)
            logits = model(sampled, attention_mask=attention).logits[:, start - 1 : -1]
            logprobs = logits.log_softmax(dim=-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
            advantages = scores - scores.view(4, 4).mean(dim=1).repeat_interleave(4)
            loss = -(logprobs * mask * advantages.unsqueeze(1)).sum() / mask.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            monitor.observe(
                Rollout(
                    mask=mask,
                    token_ids=tokens,
                    logprobs=logprobs.detach(),
                    scores=scores,
                    advantages=advantages,
                    group_ids=torch.arange(4).repeat_interleave(4),
                    truncated=ended[:, -1] == 0,
                ),
                step=step,
                metrics={"loss": float(loss.detach()), "learning_rate": 3e-3},
            )
    return memory


if __name__ == "__main__":
    with_a_trainer()
    memory = with_a_loop()
    first, last = memory.series["rldk/reward/mean"][0], memory.series["rldk/reward/mean"][-1]
    print(f"own loop: reward {first[1]:.2f} at step {first[0]}, {last[1]:.2f} at step {last[0]}")
    print("series:", ", ".join(sorted(memory.series)))
