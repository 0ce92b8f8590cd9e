"""Each training stack with its own kind of plugin (`rldk_tracking.integrations`), by its own command, on a CPU.

A reward is NaN in one step, so that there is an alert; a channel on loopback takes it. In the environment that the
script of the stack's name describes (accelerate: that of the tests):

    PYTHONPATH=$PWD python tests/forks/run_hooks.py axolotl
    PYTHONPATH=$PWD python tests/forks/run_hooks.py swift
    PYTHONPATH=$PWD python tests/forks/run_hooks.py verl
    PYTHONPATH=$PWD python tests/forks/run_hooks.py accelerate

Without a name it writes the table of docs/how-to/stacks.md anew from results/hooks/*.json.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results" / "hooks"
PAGE = ROOT / "docs" / "how-to" / "stacks.md"
BEGIN, END = "<!-- made by tests/forks/run_hooks.py from tests/forks/results/hooks/ -->", "<!-- end -->"
FAULTY_CALL = 3
"""The call of the reward function, or the step, whose first reward is NaN."""


@dataclass
class Hooked:
    """One training with a stack's plugin.

    Args:
        stack: with its version.
        trainer: what is trained.
        command: as a user types it.
        exit_code: of it.
        series: where rows are, to how many `rldk/` series are there.
        alerts: titles of the messages that came into the channel.
        date: of the run.
    """

    stack: str
    trainer: str
    command: str
    exit_code: int
    series: dict[str, int]
    alerts: list[str]
    date: str


@contextlib.contextmanager
def channel() -> Iterator[tuple[str, list[str]]]:
    """A channel on loopback: its address, and the titles of the messages that it has taken."""
    titles: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            titles.append(message["blocks"][0]["text"]["text"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/services/T0/B0/loopback", titles
    server.shutdown()


def hooked(
    stack: str, trainer: str, shown: str, words: Sequence[str], folder: Path, more: Mapping[str, str] | None = None
) -> Hooked:
    """Run a command in a folder, and look into MLflow's store there and into the channel."""
    from result import stored

    with channel() as (address, titles):
        environment = os.environ | {
            "RLDK_SLACK_WEBHOOK_URL": address,
            "RLDK_ALLOW_LOOPBACK_WEBHOOK": "1",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "AXOLOTL_DO_NOT_TRACK": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "USE_HF": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
            **(more or {}),
        }
        with (folder / "log").open("wb") as log:
            done = subprocess.run(words, cwd=folder, env=environment, stdout=log, stderr=log, timeout=900)
    if done.returncode:
        sys.stdout.write("\n".join((folder / "log").read_text(errors="replace").splitlines()[-40:]) + "\n")
    series = {"MLflow": len(stored(folder / "mlflow.db"))}
    installed = f"{stack} {version(stack)}"
    return Hooked(installed, trainer, shown, done.returncode, series, titles, date.today().isoformat())


# What the trainings need.

_CALLS = [0]


def digits(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
    """The demo's reward, with one that is NaN."""
    from rldk_tracking.demo.task import reward

    _CALLS[0] += 1
    found = reward(prompts, completions)
    return [math.nan, *found[1:]] if _CALLS[0] == FAULTY_CALL else found


def steps(loggers: list[str]) -> None:
    """Twelve steps of verl's functions on tensors, logged by its `Tracking`, as its trainer's `fit` does."""
    import torch
    from run_verl import STEPS, batch, metrics_of
    from verl.utils.tracking import Tracking

    config = {"trainer": {"default_local_dir": "checkpoints"}}
    generator = torch.Generator().manual_seed(0)
    tracking = Tracking("tiny", "run", loggers, config=config)
    tracking.log(data={"val-core/gsm8k/acc/mean@1": 0.25}, step=0)
    for step in range(1, STEPS + 1):
        logged, _ = metrics_of(batch(generator, step, critic=True), step, critic=True)
        if step == FAULTY_CALL:
            logged["critic/score/mean"] = math.nan
        tracking.log(data=logged, step=step)
        if step == STEPS:  # verl's SFT trainer logs an evaluation apart
            tracking.log(data={"val/loss": 0.5}, step=step)
    tracking.finish()


def under_ray() -> None:
    """The same in an actor, where verl's own trainer runs."""
    import ray

    ray.init(num_cpus=1, include_dashboard=False)
    ray.get(ray.remote(steps).remote(["mlflow", "file"]))


def loop() -> None:
    """A loop under accelerate."""
    import torch
    from accelerate import Accelerator

    from rldk_tracking import Rollout
    from rldk_tracking.integrations.accelerate import RLDKTracker

    accelerator = Accelerator(log_with=[RLDKTracker(output_dir="rldk_logs"), "mlflow"], cpu=True)
    accelerator.init_trackers("tiny", config={"learning_rate": 0.01})
    torch.manual_seed(accelerator.process_index)
    for step in range(1, 13):
        scores = accelerator.gather(torch.rand(8))
        if step == FAULTY_CALL:
            scores[0] = math.nan
        rollout = Rollout(mask=torch.ones(len(scores), 4), scores=scores, group_ids=torch.arange(len(scores)) // 4)
        accelerator.log({"loss": 1 / step}, step=step, log_kwargs={"rldk": {"rollout": rollout}})
    accelerator.end_training()


# One function a stack.


def axolotl() -> list[Hooked]:
    """GRPO, its own async trainer, and the latter with nothing but what it hands over of scored rollouts."""
    import yaml
    from run_axolotl import configurations

    base, found = Path(tempfile.mkdtemp()), []
    configured = configurations(base)
    only_scored = "async GRPO with prefetch, of which `on_rollouts_scored` alone is read"
    for name in ("GRPO", "async GRPO", only_scored):
        folder = base / str(len(found))
        folder.mkdir()
        configuration = configured["GRPO" if name == "GRPO" else "async GRPO"] | {
            "plugins": ["rldk_tracking.integrations.axolotl.RLDKPlugin", "run_axolotl.Bridge"],
            "rldk": {"rules": "strict"},
            "mlflow_tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "output_dir": "out",
            "dataset_prepared_path": "prepared",
        }
        configuration["trl"] = configuration["trl"] | {"reward_funcs": ["run_hooks.digits"]}
        if name == only_scored:
            configuration["trl"]["async_prefetch"] = True
            configuration["plugins"][1] = "run_axolotl.Prefetch"
        (folder / "grpo.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
        words = [str(Path(sys.executable).with_name("axolotl")), "train", "grpo.yaml", "--launcher", "python"]
        more = {"RLDK_SHUT": "1"} if name == only_scored else {}
        found.append(hooked("axolotl", name, " ".join(["axolotl", *words[1:]]), words, folder, more))
    _rewards_are_the_trainers(folder / "mlflow.db")
    return found


def _rewards_are_the_trainers(database: Path) -> None:
    """Where only scored rollouts were read: of each step that they came in, the numbers are those of its log."""
    from result import stored

    ours, logged = stored(database), stored(database, "")
    for key, name in (("rldk/reward/mean", "reward"), ("rldk/reward/group_tied_fraction", "frac_reward_zero_std")):
        points = {step: value for step, value in ours[key].items() if step != FAULTY_CALL}
        if len(points) < 2 or any(
            not math.isclose(value, logged[name][at], abs_tol=1e-6) for at, value in points.items()
        ):
            raise ValueError(f"{key} is {ours[key]}, the trainer logs {logged[name]}")


def swift() -> list[Hooked]:
    """GRPO with the plugin file, beside a user's own."""
    from tests.forks.run_swift import GRPO, command, prepare

    folder = Path(tempfile.mkdtemp())
    prepare(folder)
    (folder / "plugin.py").write_text(
        "from run_hooks import digits\n"
        "from swift.rewards import ORM, orms\n\n\n"
        "class Digits(ORM):\n"
        "    def __call__(self, completions, question, **kwargs):\n"
        "        return digits(completions, question)\n\n\n"
        'orms["digits"] = Digits\n',
        encoding="utf-8",
    )
    plugin = "rldk_tracking/integrations/swift.py"
    shown = command("grpo", **GRPO).replace("plugin.py", f"plugin.py {plugin}")
    words = shown.replace(plugin, str(ROOT / plugin)).split()
    words[0] = str(Path(sys.executable).with_name("swift"))
    return [hooked("ms-swift", "GRPO", shown, words, folder)]


def verl() -> list[Hooked]:
    """Its `Tracking` in this process and in an actor of Ray. Its trainer itself needs a GPU."""
    found = []
    for name, word in (("PPO, its Tracking", "steps"), ("PPO, its Tracking in an actor of Ray", "ray")):
        folder = Path(tempfile.mkdtemp())
        more = {
            "VERL_USE_EXTERNAL_MODULES": "rldk_tracking.integrations.verl",
            "VERL_FILE_LOGGER_PATH": str(folder / "verl.jsonl"),
            "TENSORBOARD_DIR": str(folder / "tensorboard"),
        }
        shown = f"VERL_USE_EXTERNAL_MODULES=rldk_tracking.integrations.verl python run_hooks.py {word}"
        one = hooked("verl", name, shown, [sys.executable, __file__, word], folder, more)
        one.series |= _of_loggers(folder)
        found.append(one)
    return found


def _of_loggers(folder: Path) -> dict[str, int]:
    """Series in the file, in TensorBoard's, and on the console. Of each, a step has at most one value."""
    points = [
        (key, entry["step"])
        for entry in map(json.loads, (folder / "verl.jsonl").read_text(encoding="utf-8").splitlines())
        for key in entry["data"]
        if key.startswith("rldk/")
    ]
    if len(points) != len(set(points)):
        raise ValueError("a number is twice in verl's file")
    series = {"verl's file": len({key for key, _ in points})}
    if (folder / "tensorboard").is_dir():
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard")).Reload()
        series["TensorBoard"] = sum(tag.startswith("rldk/") for tag in events.Tags()["scalars"])
        printed = (folder / "log").read_text(encoding="utf-8", errors="replace")
        series["console"] = len({*re.findall(r"(?<= - )(rldk/\S+):", printed)})
    return series


def accelerate() -> list[Hooked]:
    """A loop on two processes, of which accelerate has the first log."""
    folder = Path(tempfile.mkdtemp())
    options = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    words = [sys.executable, "-m", "accelerate.commands.launch", *options, __file__, "loop"]
    shown = f"accelerate launch {' '.join(options[:3])} loop.py"
    return [hooked("accelerate", "a loop on 2 processes", shown, words, folder)]


# The page.


def table(found: Sequence[Hooked]) -> str:
    """A line for each training."""
    rows = [("stack", "training", "command", "exit code", "series", "into a channel", "date"), ("---",) * 7]
    for one in found:
        series = ", ".join(f"{where} {count}" for where, count in one.series.items())
        code, alerts = str(one.exit_code), ", ".join(one.alerts)
        rows.append((one.stack, one.trainer, f"`{one.command}`", code, series, alerts, one.date))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def results() -> list[Hooked]:
    """Of all stacks."""
    files = sorted(RESULTS.glob("*.json"))
    return [Hooked(**one) for path in files for one in json.loads(path.read_text(encoding="utf-8"))]


def page(text: str) -> str:
    """The page, with these results in the place of those that it had."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(results())}\n\n{END}{rest.split(END)[1]}"


def main(name: str) -> None:
    """Run one stack's trainings and write its result file, or be what such a training consists of."""
    if name == "steps":
        steps(["console", "file", "tensorboard", "mlflow"])
    elif name == "ray":
        under_ray()
    elif name == "loop":
        loop()
    elif name:
        found = {"axolotl": axolotl, "swift": swift, "verl": verl, "accelerate": accelerate}[name]()
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps([asdict(one) for one in found], indent=2) + "\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
        sys.stdout.write(table(found) + "\n")
    else:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
