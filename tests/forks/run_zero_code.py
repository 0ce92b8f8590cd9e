"""`rldk-tracking run` in front of each launcher's own command, on a CPU: exit code, series in MLflow, alerts in Slack.

In the environment that the script of the package begins with (for TRL: `pip install -e ".[mlflow,trl]"`):

    python -m tests.forks.run_zero_code [NAME...]

It runs what is installed there, and writes `results/zero_code/PACKAGE-VERSION.json`. docs/how-to/zero-code.md is made
from all of them by `python -m tests.forks.run_zero_code --page`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from tests.forks.result import ROOT, stored

RESULTS = Path(__file__).with_name("results") / "zero_code"
PAGE = ROOT / "docs" / "how-to" / "zero-code.md"
BEGIN, END = "<!-- made by tests/forks/run_zero_code.py -->", "<!-- end -->"
STEPS = 4
RUN = "rldk-tracking run --rules rules.yaml --slack-from-env --"
RULES = """\
rules:
  - id: team.trains
    when: mean("update/learning_rate", 1) > 0
    persistence: [1, 1]
    message: It trains.
"""
"""With a rule that fires in every training."""

REWARDS = """\
def digits(completions, **kwargs):
    return [sum(map(str.isdigit, text if isinstance(text, str) else text[0]["content"])) / 8 for text in completions]
"""
SCRIPT = """\
from datasets import load_dataset
from rewards import digits
from trl import GRPOConfig, GRPOTrainer, TrlParser

(arguments,) = TrlParser(GRPOConfig).parse_args_and_config()
data = load_dataset("grpo", split="train")
GRPOTrainer("model", reward_funcs=digits, args=arguments, train_dataset=data).train()
"""
PLUGIN = """\
from rewards import digits
from swift.rewards import ORM, orms


class Digits(ORM):
    def __call__(self, completions, **kwargs):
        return digits(completions)


orms["digits"] = Digits
"""
SHARED = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": ["mlflow"],
    "use_cpu": True,
    "bf16": False,
}
GRPO = {"num_generations": 4, "max_completion_length": 8, "beta": 0.04}


@dataclass
class Ran:
    """What came of one command.

    Args:
        name: of what is started, and with what.
        command: as a user types it.
        exit_code: of `rldk-tracking run`.
        runs: how many MLflow runs hold `rldk/` series.
        series: how many `rldk/` series there are.
        steps: how many rows.
        messages: how often the alert of the rule that fires in every training was posted.
    """

    name: str
    command: str
    exit_code: int
    runs: int = 0
    series: int = 0
    steps: int = 0
    messages: int = 0


class Slack:
    """An incoming webhook on this machine."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                slack.messages.append(body["text"])
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/T/B/x"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prepare(folder: Path) -> None:
    """A tiny model, data, rewards and rules."""
    from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
    from rldk_tracking.demo.task import demonstrations, prompts

    tiny_model(0, vocab_size=64).save_pretrained(folder / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["a"])  # ms-swift asks each tokenizer for this letter
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    write(folder / "grpo" / "train.jsonl", [{"prompt": text} for text in prompts(64)])
    pairs = list(zip(demonstrations(64, 0.9), demonstrations(64, 0.1), strict=True))
    rows = [{"prompt": asked, "chosen": good, "rejected": bad} for (asked, good), (_, bad) in pairs]
    write(folder / "dpo" / "train.jsonl", rows)
    texts = {"rules.yaml": RULES, "rewards.py": REWARDS, "train.py": SCRIPT}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, own in {"grpo": GRPO, "dpo": {"max_length": 32}}.items():
        data = {"model_name_or_path": "model", "dataset_name": name, "dtype": "float32"}
        data |= {"reward_funcs": ["rewards.digits"]} if name == "grpo" else {}
        settings = {**SHARED, **own, "output_dir": f"out_{name}"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings | data), encoding="utf-8")
        (folder / f"args_{name}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def llamafactory(folder: Path) -> None:
    """Its configurations; `torchaudio`, whose wheels need CUDA, is a stub."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tests.forks.run_llamafactory import arguments

    for stage in ("sft", "dpo"):
        (folder / stage).mkdir(exist_ok=True)
        (folder / f"lf_{stage}.yaml").write_text(yaml.safe_dump(arguments(stage, folder / stage)), encoding="utf-8")
    (folder / "torchaudio").mkdir()
    (folder / "torchaudio" / "__init__.py").write_text("")


def axolotl(folder: Path) -> None:
    """Its configurations, without a plugin."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tests.forks.run_axolotl import configurations

    (folder / "axolotl").mkdir()
    for name, settings in configurations(folder / "axolotl").items():
        places = {"output_dir": f"out_{name}", "dataset_prepared_path": f"prepared_{name}"}
        settings.pop("plugins")
        path = folder / f"axolotl_{name.lower()}.yaml"
        path.write_text(yaml.safe_dump({**settings, **places, "mlflow_tracking_uri": address(folder)}))


def swift(folder: Path) -> None:
    """A plugin with the reward, and data in its own columns."""
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    rows = [json.loads(line) for line in (folder / "dpo" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [{"role": "user", "content": row["prompt"]} for row in rows]
    write(folder / "swift_grpo.jsonl", [{"messages": [one]} for one in asked])
    answered = [{"role": "assistant", "content": row["chosen"]} for row in rows]
    pairs = zip(rows, asked, answered, strict=True)
    write(
        folder / "swift_dpo.jsonl",
        [{"messages": [ask, answer], "rejected_response": row["rejected"]} for row, ask, answer in pairs],
    )


SWIFT = (
    "--model model --model_type qwen2 --template dummy --tuner_type full --torch_dtype float32 --use_cpu true "
    f"--report_to mlflow --logging_steps 1 --save_strategy no --max_length 64 --max_steps {STEPS} "
    "--per_device_train_batch_size 8 --output_dir output --add_version false --dataset_num_proc 1 "
    "--load_from_cache_file false"
)
GLOO = "--nproc_per_node 4 --master_port 29611"
CASES: dict[str, tuple[Callable[[Path], None] | None, dict[str, str]]] = {
    "trl": (
        None,
        {
            "trl grpo": "trl grpo --config grpo.yaml",
            "trl dpo": "trl dpo --config dpo.yaml",
            "accelerate, 2 processes": "accelerate launch --cpu --num_processes 2 --num_machines 1 "
            "--mixed_precision no --dynamo_backend no train.py --config args_grpo.yaml",
            "torchrun, 4 ranks": f"torchrun {GLOO} train.py --config args_grpo.yaml",
            "python": "python train.py --config args_grpo.yaml",
        },
    ),
    "llamafactory": (
        llamafactory,
        {f"LLaMA-Factory, {stage.upper()}": f"llamafactory-cli train lf_{stage}.yaml" for stage in ("sft", "dpo")},
    ),
    "ms-swift": (
        swift,
        {
            "ms-swift, GRPO": "swift rlhf --rlhf_type grpo --dataset swift_grpo.jsonl --reward_funcs digits "
            f"--external_plugins plugin.py --num_generations 4 --max_completion_length 8 --beta 0.04 {SWIFT}",
            "ms-swift, DPO": f"swift rlhf --rlhf_type dpo --dataset swift_dpo.jsonl {SWIFT}",
        },
    ),
    "axolotl": (
        axolotl,
        {
            "axolotl, DPO": "axolotl train axolotl_dpo.yaml",
            "axolotl, GRPO": "axolotl train axolotl_grpo.yaml --launcher python",
        },
    ),
}
"""Package to what its own files need, and name to command."""


def address(folder: Path) -> str:
    """Of the store."""
    return f"sqlite:///{folder}/mlflow.db"


def ran(name: str, command: str, folder: Path) -> Ran:
    """Run it as a user would, and read back what came of it."""
    slack = Slack()
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_HF": "1", "DO_NOT_TRACK": "1"}
    quiet |= {"AXOLOTL_DO_NOT_TRACK": "1", "DISABLE_VERSION_CHECK": "1"}
    own = {"MLFLOW_TRACKING_URI": address(folder), "RLDK_SLACK_WEBHOOK_URL": slack.url}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder), str(Path(__file__).parent)])}
    path["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | quiet | own | path | {"RLDK_ALLOW_LOOPBACK_WEBHOOK": "1"}
    line = f"{RUN} {command}"
    words = [sys.executable, "-m", "rldk_tracking", *shlex.split(line)[1:]]
    log = folder / f"{name.replace(' ', '_').replace(',', '')}.log"
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(words, cwd=folder, env=environment, stdout=output, stderr=output, timeout=900)
    found = Ran(name, line, done.returncode)
    until = time.monotonic() + 30
    while time.monotonic() < until and not slack.messages:
        time.sleep(0.5)
    time.sleep(2)  # for what may come twice
    found.messages = sum("It trains." in text for text in slack.messages)
    if (folder / "mlflow.db").exists():
        series = stored(folder / "mlflow.db")
        found.runs, found.series = 1, len(series)
        found.steps = len(series.get("rldk/health/score", {}))
    if done.returncode or not found.series:
        sys.stderr.write("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-25:]))
    return found


def installed(package: str) -> str | None:
    """Its version, if it is there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main(names: list[str]) -> int:
    """Run what is installed, all of it or what is named, and write the result."""
    if names == ["--page"]:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    package = next((one for one in ("axolotl", "llamafactory", "ms-swift") if installed(one)), "trl")
    more, commands = CASES[package]
    results = []
    for name, command in commands.items():
        if names and name not in names:
            continue
        folder = Path(tempfile.mkdtemp(prefix="rldk-zero-"))
        prepare(folder)
        if more is not None:
            more(folder)
        results.append(ran(name, command, folder))
        sys.stdout.write(f"{results[-1]}\n")
        sys.stdout.flush()
    versions = {one: installed(one) for one in dict.fromkeys((package, "trl", "transformers", "accelerate", "mlflow"))}
    path = RESULTS / f"{package}-{versions[package]}.json"
    known = json.loads(path.read_text(encoding="utf-8"))["ran"] if names and path.exists() else []
    found = {one["name"]: one for one in (*known, *map(asdict, results))}
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"date": date.today().isoformat(), "versions": versions, "ran": list(found.values())}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(any(one.exit_code or one.runs != 1 or one.messages != 1 for one in results))


def page(text: str) -> str:
    """The page, with the table of all result files in the place of that which it had."""
    lines = [
        "| what | command, after `rldk-tracking run --rules rules.yaml --slack-from-env --` | exit code | series "
        "| rows | messages | versions | date |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
        for one in found["ran"]:
            command = one["command"].removeprefix(f"{RUN} ")
            numbers = " | ".join(str(one[name]) for name in ("exit_code", "series", "steps", "messages"))
            lines.append(f"| {one['name']} | `{command}` | {numbers} | {versions} | {found['date']} |")
    before, rest = text.split(BEGIN)
    return "\n".join([f"{before}{BEGIN}", "", *lines, "", f"{END}{rest.split(END)[1]}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
