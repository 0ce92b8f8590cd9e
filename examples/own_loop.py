"""A training loop of one's own: REINFORCE with a baseline in forty lines, which hands each step's rollout over itself.

python examples/own_loop.py
rldk-tracking report rldk_logs -o page.html          # the run on one page
"""

import random
import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rldk_tracking import RLDKCallback, Rollout

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
STEPS, PROMPTS, GROUP = 20, 4, 4
RATE = 1e-5


def score(completion: str, answer: int) -> float:
    """1 where the first number is the right one, 0.1 for another number, 0 without any."""
    found = re.search(r"\d+", completion)
    return 0.0 if found is None else 1.0 if int(found.group()) == answer else 0.1


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(MODEL, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    with RLDKCallback(output_dir="rldk_logs") as monitor:
        for step in range(1, STEPS + 1):
            pairs = [(random.randint(1, 50), random.randint(1, 50)) for _ in range(PROMPTS)] * GROUP
            questions = [f"What is {a} + {b}? Answer with the number alone: " for a, b in pairs]
            inputs = tokenizer(questions, return_tensors="pt", padding=True).to(device)
            start = inputs["input_ids"].shape[1]
            sampled = model.generate(**inputs, max_new_tokens=32, do_sample=True, top_k=0)
            tokens = sampled[:, start:]
            ends = (tokens == tokenizer.eos_token_id).cumsum(dim=1)
            mask = (ends == 0) | ((ends == 1) & (tokens == tokenizer.eos_token_id))
            texts = tokenizer.batch_decode(tokens.masked_fill(~mask, tokenizer.pad_token_id), skip_special_tokens=True)
            scores = torch.tensor([score(text, a + b) for text, (a, b) in zip(texts, pairs, strict=True)]).to(device)

            attention = torch.cat([inputs["attention_mask"], mask.long()], dim=1)
            logits = model(sampled, attention_mask=attention).logits[:, start - 1 : -1]
            logprobs = logits.log_softmax(dim=-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
            advantages = scores - scores.view(GROUP, PROMPTS).mean(dim=0).repeat(GROUP)
            loss = -(logprobs * mask * advantages.unsqueeze(1)).sum() / mask.sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

            rollout = Rollout(
                mask=mask,
                token_ids=tokens,
                logprobs=logprobs.detach(),
                scores=scores,
                advantages=advantages,
                group_ids=torch.arange(PROMPTS).repeat(GROUP).to(device),
                truncated=ends[:, -1] == 0,
            )
            monitor.observe(rollout, step=step, metrics={"loss": float(loss.detach()), "learning_rate": RATE})
    for alert in monitor.alerts:
        print(f"step {alert.step}: {alert.title}: {alert.message}")
    print(f"step {monitor.metrics.step}: reward {monitor.metrics.reward_mean:.2f}")


if __name__ == "__main__":
    main()
