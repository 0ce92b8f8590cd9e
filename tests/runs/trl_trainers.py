"""Every trainer that TRL offers, on a model of one layer and texts of bytes: two steps take a second.

`TRAINERS` has a builder for each that trains on a CPU without a server, `ELSEWHERE` why the others are not here. A
trainer of a newer TRL that is in neither fails a test.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
import trl.experimental
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

STEPS = 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few marks, with a chat template that knows tools."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(letters)}, merges=[]))
    plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain.add_special_tokens(SPECIAL[:3])
    plain.add_tokens(SPECIAL[3:])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    return tokenizer


def tiny_model(kind: type[Any] = Qwen2ForCausalLM, seed: int = 0) -> Any:
    """One layer over the bytes."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=2048, **sizes, **ends
    )
    config.num_labels = 1
    return kind(config)


def score(completions: list[Any], **columns: Any) -> list[float]:
    """A reward that differs within a group."""
    return [float(index % 2) for index, _ in enumerate(completions)]


def rows(**columns: Any) -> Dataset:
    """Sixteen rows of the same columns, which differ in their first letter where they are texts."""
    return Dataset.from_list(
        [
            {name: f"{value}{row % 4}" if isinstance(value, str) else value for name, value in columns.items()}
            for row in range(16)
        ]
    )


def chat(said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "say"}, {"role": "assistant", "content": said}]


QUIET = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}
COMMON = {**QUIET, "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": 0}
PAIRS = {"prompt": "say ", "chosen": "yes", "rejected": "no, never"}
Builder = Callable[[Path, list[Any]], Any]


def built(
    trainer: str,
    data: Dataset,
    model: type[Any] = Qwen2ForCausalLM,
    given: Callable[[Path], dict[str, Any]] = lambda folder: {},
    **settings: Any,
) -> Builder:
    """What makes a trainer of that name.

    Args:
        trainer: `Name`, or `module.Name` below `trl.experimental`.
        data: what it is trained on.
        model: its class.
        given: further arguments, made anew.
        settings: of its configuration.
    """

    def build(folder: Path, callbacks: list[Any]) -> Any:
        kind = trainer_classes()[trainer]
        name = trainer.rpartition(".")[2].replace("Trainer", "Config")
        config = getattr(importlib.import_module(kind.__module__), name, None) or config_of(kind, name)
        policy = tiny_model(model)
        policy.save_pretrained(folder / "model")
        policy.config._name_or_path = str(folder / "model")
        return kind(
            model=policy,
            args=config(**{"output_dir": str(folder), **COMMON, **settings}),
            train_dataset=data,
            processing_class=byte_tokenizer(),
            callbacks=callbacks,
            **given(folder),
        )

    return build


def config_of(kind: type[Any], name: str) -> Any:
    """The configuration of a trainer whose module does not have it: that of its parent's."""
    modules = [importlib.import_module(parent.__module__) for parent in kind.__mro__[:3]]
    names = [name, *(parent.__name__.replace("Trainer", "Config") for parent in kind.__mro__[1:3])]
    return next(getattr(module, one) for one in names for module in (*modules, trl) if hasattr(module, one))


def trainer_classes() -> dict[str, type[Any]]:
    """Every trainer of this TRL, by its name, those below `trl.experimental` with their module's before it."""
    found = {name: getattr(trl, name) for name in dir(trl) if name.endswith("Trainer")}
    for module in pkgutil.iter_modules(trl.experimental.__path__):
        if not module.ispkg:
            continue
        try:
            package = importlib.import_module(f"trl.experimental.{module.name}")
        except ImportError:
            continue
        for name, kind in vars(package).items():
            own = inspect.isclass(kind) and name.endswith("Trainer") and kind.__module__.startswith(package.__name__)
            if own and not issubclass(kind, found.get(name, ())):
                found[f"{module.name}.{name}"] = kind
    return found


def teacher(folder: Path) -> dict[str, Any]:
    """Another model, which lies with its tokenizer where a trainer may look for them."""
    model, place = tiny_model(seed=1), str(folder / "teacher")
    model.save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    model.config._name_or_path = place
    return {"teacher_model": model}


def judged(folder: Path) -> dict[str, Any]:
    return {"reward_funcs": score}


SHORT = {"max_completion_length": 8}
GROUPS = {"num_generations": 4, **SHORT}
TRAINERS: dict[str, Builder] = {
    "SFTTrainer": built("SFTTrainer", rows(text="some text ")),
    "DPOTrainer": built("DPOTrainer", rows(**PAIRS)),
    "KTOTrainer": built(
        "KTOTrainer",
        Dataset.from_list(
            [{"prompt": f"say{row % 4}", "completion": f"yes{row}", "label": row % 2 == 0} for row in range(16)]
        ),
    ),
    "RewardTrainer": built("RewardTrainer", rows(**PAIRS), Qwen2ForSequenceClassification),
    "GRPOTrainer": built("GRPOTrainer", rows(prompt="say "), given=judged, beta=0.1, **GROUPS),
    "RLOOTrainer": built("RLOOTrainer", rows(prompt="say "), given=judged, **GROUPS),
    "DistillationTrainer": built(
        "DistillationTrainer", rows(prompt=[{"role": "user", "content": "say"}]), given=teacher, **SHORT
    ),
    "a2po.A2POTrainer": built("a2po.A2POTrainer", rows(prompt="say "), given=judged, num_value_samples=2, **SHORT),
    "cpo.CPOTrainer": built("cpo.CPOTrainer", rows(**PAIRS)),
    "gkd.GKDTrainer": built("gkd.GKDTrainer", rows(messages=chat("yes")), given=teacher, max_new_tokens=8),
    "gmpo.GMPOTrainer": built("gmpo.GMPOTrainer", rows(prompt="say "), given=judged, **GROUPS),
    "gold.GOLDTrainer": built("gold.GOLDTrainer", rows(messages=chat("yes")), given=teacher, **SHORT),
    "iw_opd.IWOPDTrainer": built("iw_opd.IWOPDTrainer", rows(messages=chat("yes")), given=teacher, **SHORT),
    "online_dpo.OnlineDPOTrainer": built(
        "online_dpo.OnlineDPOTrainer", rows(prompt="say "), given=judged, max_new_tokens=8
    ),
    "orpo.ORPOTrainer": built("orpo.ORPOTrainer", rows(**PAIRS)),
    "sdft.SDFTTrainer": built("sdft.SDFTTrainer", rows(prompt="say ", privileged_context="it is yes"), **GROUPS),
    "sdpo.SDPOTrainer": built("sdpo.SDPOTrainer", rows(prompt="say "), given=judged, **GROUPS),
    "tpo.TPOTrainer": built("tpo.TPOTrainer", rows(**PAIRS, reference="yes")),
}
"""Name to what makes it."""
ELSEWHERE = {
    "async_grpo.AsyncGRPOTrainer": "samples from a vLLM server; its source is tested with an engine in the process",
    "async_distillation.AsyncDistillationTrainer": "samples from a vLLM server, and its teacher is one",
    "server_distillation.ServerDistillationTrainer": "its teacher is a vLLM server; else as DistillationTrainer",
}
"""Name to why it is not trained here."""
