"""Run by test_sharded.py, alone or under torchrun: a training loop whose model FSDP2 has cut up between the ranks.

torchrun ... sharded_script.py '{"folder": ..., "steps": 6, "broken_after": 4}'
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.model import tiny_model
from rldk_tracking.trackers.memory import InMemoryTracker

ROWS, TOKENS = 12, 8


def train(folder: Path, steps: int, broken_after: int, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """The same training on however many ranks: each takes its part of every batch, and gradients are averaged.

    After step `broken_after` one weight, of which the last rank alone holds a copy, is not finite.
    """
    torch.manual_seed(0)
    model = tiny_model(0)
    if ranks > 1:
        from torch.distributed.fsdp import fully_shard

        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    memory = InMemoryTracker()
    callback = RLDKCallback(trackers=[memory], on_critical="stop", strict=True)
    args = SimpleNamespace(output_dir=str(folder), run_name="sharded")
    state = SimpleNamespace(global_step=0, stateful_callbacks={}, is_world_process_zero=rank == 0)
    control = SimpleNamespace(should_log=True, should_save=False, should_training_stop=False)
    own = {"model": model, "optimizer": optimizer}
    callback.on_train_begin(args, state, control, **own)
    while state.global_step < steps and not control.should_training_stop:
        callback.on_step_begin(args, state, control, **own)
        generator = torch.Generator().manual_seed(state.global_step)
        tokens = torch.randint(2, model.config.vocab_size, (ROWS, TOKENS), generator=generator)
        mine = tokens[rank * ROWS // ranks : (rank + 1) * ROWS // ranks]
        model(input_ids=mine, labels=mine).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.global_step += 1
        callback.on_step_end(args, state, control, **own)
        callback.on_log(args, state, control, logs={"learning_rate": 1e-3}, **own)
        if state.global_step == broken_after and rank == ranks - 1:
            weight = model.model.layers[0].mlp.down_proj.weight
            with torch.no_grad():
                (weight.to_local() if ranks > 1 else weight)[-1, -1] = math.nan
    callback.on_train_end(args, state, control, **own)
    return {
        "last": state.global_step,
        "series": memory.series,
        "alerts": [[alert.rule, alert.state, alert.step] for alert in callback.alerts],
    }


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    place, number = Path(options.pop("folder")), int(os.environ["RANK"])
    dist.init_process_group("gloo")
    found = train(place, **options, rank=number, ranks=dist.get_world_size())
    (place / f"rank-{number}.json").write_text(json.dumps(found))
    dist.barrier()  # gloo aborts a rank whose peer goes first
    dist.destroy_process_group()
