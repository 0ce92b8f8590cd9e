"""A loop of one's own under accelerate: REINFORCE on a choice of ten, whose numbers and tensors go to `RLDKTracker`.

accelerate launch --num_processes 2 examples/accelerate_loop.py            # add --cpu where there is no GPU
python examples/accelerate_loop.py                                         # or on one
rldk-tracking report rldk_logs -o page.html                                # the run on one page
"""

import torch
from accelerate import Accelerator

from rldk_tracking import Rollout
from rldk_tracking.integrations.accelerate import RLDKTracker

STEPS, SAMPLES, GROUP, RATE = 60, 64, 8, 0.05


def main() -> None:
    accelerator = Accelerator(log_with=[RLDKTracker(output_dir="rldk_logs")])
    accelerator.init_trackers("choice", config={"learning_rate": RATE})
    policy = torch.nn.Linear(1, 10, bias=False)
    policy, optimizer = accelerator.prepare(policy, torch.optim.Adam(policy.parameters(), RATE))
    worth = torch.linspace(0, 1, 10, device=accelerator.device)
    torch.manual_seed(accelerator.process_index)
    for step in range(1, STEPS + 1):
        choice = torch.distributions.Categorical(logits=policy(torch.ones(SAMPLES, 1, device=accelerator.device)))
        taken = choice.sample()
        scores, logprobs, entropy = worth[taken], choice.log_prob(taken), choice.entropy()
        loss = -(logprobs * (scores - scores.mean())).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

        taken, scores, logprobs, entropy = accelerator.gather(
            (taken, scores, logprobs.detach(), choice.entropy().detach())
        )
        rollout = Rollout(
            mask=torch.ones(len(scores), 1, device=scores.device),
            token_ids=taken[:, None],
            logprobs=logprobs[:, None],
            entropy=entropy[:, None],
            scores=scores,
            group_ids=torch.arange(len(scores), device=scores.device) // GROUP,
        )
        accelerator.log({"loss": float(loss.detach())}, step=step, log_kwargs={"rldk": {"rollout": rollout}})
    if accelerator.is_main_process:
        callback = accelerator.get_tracker("rldk", unwrap=True)
        for alert in callback.alerts:
            print(f"step {alert.step}: {alert.title}: {alert.message}")
        print(f"{accelerator.num_processes} processes, reward {callback.metrics.reward_mean:.2f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
