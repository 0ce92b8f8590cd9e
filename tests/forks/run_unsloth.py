"""GRPO with the class that Unsloth's own code writes, on a CPU, and the tracker's store read back.

Unsloth reads the source of TRL's trainer and writes `UnslothGRPOTrainer` from it; both run here. Its models need a GPU,
so a plain transformers model is trained. In an environment of its own:

    python -m pip install torch==2.13.0 "trl<=1.15.0" "transformers<=5.17.0" "datasets<5" "peft>=0.18" triton \
        bitsandbytes sentencepiece hf_transfer tyro regex msgspec torchao cut_cross_entropy einops nest-asyncio json5 \
        structlog diffusers -e ".[mlflow]"
    python -m pip install --no-deps unsloth==2026.10.9 unsloth_zoo==2026.10.9
    python -m tests.forks.run_unsloth
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.forks.oracle import LOGGED, expected, note
from tests.forks.result import ROOT, Result, Training, compared, listen, said, stored

STEPS = 4
SETTINGS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "beta": 0.04,
    "report_to": "mlflow",
}
OF_LOG = {
    "rldk/reward/mean": "reward",
    "rldk/reward/function/reward/mean": "rewards/reward/mean",
    "rldk/length/mean": "completions/mean_length",
    "rldk/length/truncated_fraction": "completions/clipped_ratio",
    "rldk/length/terminated_mean": "completions/mean_terminated_length",
}
LOSS = "since Unsloth's loss computes log-probabilities in a function of its own and hands out none"
REASONS = {
    "rldk/policy/": LOSS,
    "rldk/kl/": f"{LOSS}, and the trainer keeps none at sampling",
    "rldk/sampler/": LOSS,
    "rldk/update/adam_rms": "since Unsloth's default optimiser, adamw_8bit, keeps its state in a form of its own",
    "rldk/health/": "since what the rules of this family judge is missing",
}


def train(kind: str, iterations: int) -> None:
    """One training in the current folder: `unsloth`, or `stock` with TRL's own trainer."""
    if kind == "unsloth":
        import unsloth

        # The switch that lets it be imported without a GPU also leaves TRL's trainers as they are.
        del os.environ["UNSLOTH_ALLOW_CPU"]
        unsloth.PatchFastRL("GRPO", unsloth.FastLanguageModel)
    from rldk_tracking import RLDKCallback
    from rldk_tracking.demo.model import tiny_model
    from rldk_tracking.demo.trainers import grpo_trainer

    model: Any = tiny_model(0)
    if kind == "unsloth":
        from unsloth.models.vision import FastBaseModel

        for name in ("for_training", "for_inference"):  # as its from_pretrained does
            setattr(model, name, functools.partial(getattr(FastBaseModel, name), model))
    listen(Path("said.jsonl"))
    callbacks = [RLDKCallback()]
    settings = {**SETTINGS, "num_iterations": iterations}
    if iterations > 1:
        settings["generation_kwargs"] = {"suppress_tokens": [0]}  # the padding, see the notes
    trainer: Any = grpo_trainer("output", model=model, callbacks=callbacks, **settings)
    if kind == "unsloth":
        assert [one.__name__ for one in type(trainer).__mro__[:2]] == ["UnslothGRPOTrainer", "_UnslothGRPOTrainer"]
        watch(trainer, tiny_model(0), has_policy=iterations > 1)
    trainer.train()


def watch(trainer: Any, reference: Any, *, has_policy: bool) -> None:
    """Note each rollout; its log-probabilities from forward passes of one completion each, without any padding."""
    import torch

    sample = trainer._generate_and_score_completions

    @torch.no_grad()
    def logprobs(model: Any, prompt: torch.Tensor, completion: torch.Tensor) -> list[float]:
        logits = model(input_ids=torch.cat([prompt, completion])[None], use_cache=False).logits[0].float()
        table = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
        found: list[float] = table.gather(1, completion[:, None]).squeeze(1).tolist()
        return found

    def generate_and_score_completions(inputs: Any) -> Any:
        output = sample(inputs)
        rows = []
        for row in range(len(output["completion_ids"])):
            prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
            completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
            rows.append((prompt, completion))
        count = len(rows)
        rollout = {
            "step": trainer.state.global_step + 1,
            "num_generations": trainer.num_generations,
            "rewards": list(trainer._logs["rewards"]["reward"])[-count:],
            "advantages": output["advantages"].tolist(),
            "lengths": [len(completion) for _, completion in rows],
        }
        if has_policy:
            rollout["policy"] = [logprobs(trainer.model, *row) for row in rows]
            rollout["reference"] = [logprobs(reference, *row) for row in rows]
        note(Path("rollouts.jsonl"), rollout)
        return output

    trainer._generate_and_score_completions = generate_and_score_completions


def run(folder: Path, kind: str, iterations: int) -> int:
    """`train` in a process of its own: what Unsloth does to TRL stays in it."""
    folder.mkdir()
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    # TRL 1.15 computes log-probabilities by Triton; Unsloth has its own way.
    environment |= {"UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_COMPILE_DISABLE": "1"} if kind == "unsloth" else {}
    environment |= {"TRITON_INTERPRET": "1"} if kind == "stock" else {}
    words = (sys.executable, "-m", "tests.forks.run_unsloth", kind, str(iterations))
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(words, cwd=folder, env=environment, stdout=log, stderr=log, timeout=900)
    if done.returncode:
        print("".join((folder / "log.txt").read_text(encoding="utf-8").splitlines(keepends=True)[-30:]))
    return done.returncode


def trained(place: Path, iterations: int) -> Training:
    """Both trainings, read back and compared."""
    folder, beside = place / f"unsloth-{iterations}", place / f"stock-{iterations}"
    code = run(folder, "unsloth", iterations)
    name = "GRPO" if iterations == 1 else f"GRPO, {iterations} iterations"
    training = Training(name, f"python -m tests.forks.run_unsloth unsloth {iterations}", code)
    if code or run(beside, "stock", iterations):
        return training
    series, usual = stored(folder / "mlflow.db"), stored(beside / "mlflow.db")
    logged = stored(folder / "mlflow.db", "")
    training.series, training.stock = len(series), len(usual)
    for key in sorted(usual.keys() - series.keys()):
        reason = next((why for start, why in REASONS.items() if key.startswith(start)), "not explained")
        training.missing.setdefault(reason, []).append(key)
    sampled = range(1, STEPS + 1, iterations)
    numbers = {key: {s: v for s, v in logged[own].items() if s <= STEPS} for key, own in LOGGED.items()}
    numbers |= {key: {step: logged[own][step] for step in sampled} for key, own in OF_LOG.items()}
    parts = [compared(series, numbers), compared(series, expected(folder / "rollouts.jsonl"))]
    training.compared = sum(count for count, _ in parts)
    training.differing = [sentence for _, differing in parts for sentence in differing]
    training.said = said(folder / "said.jsonl")
    return training


def main() -> int:
    """Run all, and write the result file."""
    if sys.argv[1:]:
        train(sys.argv[1], int(sys.argv[2]))
        return 0
    place = Path(tempfile.mkdtemp(prefix="rldk-unsloth-"))
    trainings = [trained(place, iterations) for iterations in (1, 2)]
    names = ("unsloth", "unsloth_zoo", "trl", "transformers", "torch", "mlflow")
    result = Result(
        "Unsloth",
        date.today().isoformat(),
        "the class that its own code writes, on a CPU",
        {name: version(name) for name in names},
        trainings,
        [
            "Imported with its own switch for tests, `UNSLOTH_ALLOW_CPU=1`; then `PatchFastRL` wrote the trainer as on "
            "a GPU. Nothing of the rewriting is replaced.",
            "The model is a plain transformers one: `FastLanguageModel.from_pretrained` needs a GPU. It is given "
            "`for_training` and `for_inference` of Unsloth's base class, as that does. `UNSLOTH_COMPILE_DISABLE=1`.",
            "TRL 1.15's own trainer computes log-probabilities by Triton also without a GPU; the training beside it "
            "ran with `TRITON_INTERPRET=1`.",
            "With two iterations its log-probabilities at sampling are compared with forward passes of one completion "
            "each. The tiny model is kept from sampling the padding token there: Unsloth takes one that was sampled "
            "within a completion for padding, and its log-probabilities of such a row are those of another text.",
        ],
    )
    print(result.write("unsloth"))
    return int(any(one.exit_code or one.differing or "not explained" in one.missing for one in trainings))


if __name__ == "__main__":
    sys.exit(main())
