"""Numbers that the trainer and its reward functions log under names of their own: judged, drawn, kept, resumed."""

from __future__ import annotations

import html
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking import InMemoryTracker, RLDKCallback, Rule, replay
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.health.presets import rules_for
from rldk_tracking.history.past import load
from tests.runs.trl_trainers import byte_tokenizer, tiny_model

CALL = '<tool_call>\n{"name": "%s", "arguments": {"text": "ab"}}\n</tool_call><|im_end|>'


def above(name: str, limit: float, rule: str = "team.own") -> Rule:
    return Rule(id=rule, keys=[name], condition="level", parameters={"threshold": limit}, message="{key} is {value:g}.")


def scored(completions: list[Any], log_metric: Any = None, log_extra: Any = None, **columns: Any) -> list[float]:
    """A reward function that logs a number and a column of its own."""
    log_metric("env/score", float(len(completions)))
    log_extra("shout", ["x"] * len(completions))
    return [float(index % 3) for index, _ in enumerate(completions)]


def shout(text: str) -> str:
    """Shout.

    Args:
        text: What to shout.
    """
    return text.upper()


def tools_trainer(folder: Path, says: list[str], **settings: Any) -> Any:
    """GRPO with a tool; what the model says first is given, and after a tool's answer it says "done"."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = byte_tokenizer()
    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 400}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    config = GRPOConfig(**{"output_dir": str(folder), "max_steps": 3, "logging_steps": 1, **batch, **quiet, **settings})
    trainer = GRPOTrainer(
        model=tiny_model(),
        reward_funcs=scored,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "hi"}]}] * 8),
        processing_class=tokenizer,
        tools=[shout],
    )

    def single_turn(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        first = not any(tokenizer.decode(ids).count("<tool_response>") for ids in prompt_ids)
        texts = says if first else ["done<|im_end|>"] * len(prompt_ids)
        return [tokenizer(text)["input_ids"] for text in texts], None

    trainer._generate_single_turn = single_turn
    return trainer


def test_tools_and_a_reward_functions_own_numbers(tmp_path: Path) -> None:
    """Two of four completions call a tool, one of them a tool that there is not."""
    says = [CALL % "shout", CALL % "missing", "no<|im_end|>", "no<|im_end|>"]
    tracker = InMemoryTracker()
    rules = [above("env/score", 3.0), above("rldk/tools/failure_frequency", 0.4, "team.tools")]
    trainer = tools_trainer(tmp_path, says)
    callback = RLDKCallback(trackers=[tracker], rules=rules, strict=True)
    trainer.add_callback(callback)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "tools/call_frequency" in entry]
    for name, key in (
        ("tools/call_frequency", "rldk/tools/call_frequency"),
        ("tools/failure_frequency", "rldk/tools/failure_frequency"),
        ("env/score", "env/score"),
    ):
        assert [value for _, value in tracker.series[key]] == [entry[name] for entry in logged], key
    assert (logged[0]["tools/call_frequency"], logged[0]["tools/failure_frequency"]) == (0.5, 0.5)
    assert {alert.rule for alert in callback.alerts} == {"team.own", "team.tools"}
    assert {alert.key for alert in callback.alerts} == {"env/score", "rldk/tools/failure_frequency"}


def test_without_a_call_no_share_of_the_calls_fails(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    trainer = tools_trainer(tmp_path, ["no<|im_end|>"] * 4, max_steps=2)
    trainer.add_callback(RLDKCallback(trackers=[tracker], strict=True))
    trainer.train()
    assert [value for _, value in tracker.series["rldk/tools/call_frequency"]] == [0.0, 0.0]
    assert "rldk/tools/failure_frequency" not in tracker.series


def test_the_journal_keeps_what_is_asked_for_and_replay_judges_it_alike(tmp_path: Path) -> None:
    rules = [*rules_for("safe"), above("env/score", 3.0)]
    callback = RLDKCallback(rules=rules, charts=["num_tokens"], strict=True)
    trainer = grpo_trainer(tmp_path, max_steps=4, callbacks=[callback], reward_funcs=scored, logging_steps=1)
    trainer.train()
    journal = tmp_path / "_rldk" / "run.jsonl"
    rows = [json.loads(line)["metrics"] for line in journal.read_text().splitlines() if '"metrics"' in line[:60]]
    own = {key for row in rows for key in row if not key.startswith("rldk/")}
    assert own == {"env/score", "num_tokens"}  # and none of the trainer's other names
    live = [(alert.rule, alert.state, alert.step, alert.value) for alert in callback.alerts]
    found = replay(tmp_path, rules=rules)
    assert [(alert.rule, alert.state, alert.step, alert.value) for _, alert in found.alerts] == live
    assert "team.own" in {rule for rule, *_ in live}
    page = load(tmp_path).report().html()
    assert "Numbers of your own" in page and "num_tokens" in page


def test_a_name_that_never_comes_is_said_with_what_is_near(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], rules=[above("env/scores", 3.0)], charts=["env/score"], strict=True)
    trainer = grpo_trainer(tmp_path, max_steps=12, callbacks=[callback], reward_funcs=scored, logging_steps=1)
    with caplog.at_level(logging.WARNING, "rldk_tracking.journal.judge"):
        trainer.train()
    (alert,) = [alert for alert in callback.alerts if alert.rule == "health.never_logged"]
    assert alert.step == 10 and alert.severity == "info"
    assert alert.message == "team.own reads 'env/scores', which was never logged; near: env/score."
    assert [record.getMessage() for record in caplog.records] == [f"rldk: {alert.message}"]
    found = replay(tmp_path / "_rldk", rules=[above("env/scores", 3.0)])
    assert found.notes[-1] == alert.message[:-1]


def test_a_name_that_comes_late_ends_it_and_a_resumed_run_knows_that(tmp_path: Path) -> None:
    def late(completions: list[Any], log_metric: Any = None, trainer_state: Any = None, **columns: Any) -> list[float]:
        if trainer_state.global_step >= 13:
            log_metric("env/late", 1.0)
        return [float(index % 3) for index, _ in enumerate(completions)]

    def train(steps: int, resume: bool) -> RLDKCallback:
        callback = RLDKCallback(rules=[above("env/late", 3.0)], strict=True)
        settings = {"save_strategy": "steps", "save_steps": 11}
        trainer = grpo_trainer(tmp_path, max_steps=steps, callbacks=[callback], reward_funcs=late, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return callback

    first = train(11, resume=False)
    assert [(a.rule, a.state, a.step) for a in first.alerts] == [("health.never_logged", "firing", 10)]
    second = train(15, resume=True)
    assert [(a.rule, a.state, a.step) for a in second.alerts] == [("health.never_logged", "resolved", 14)]


def test_a_number_that_a_loss_logs_in_mid_step_costs_the_step_nothing(tmp_path: Path) -> None:
    """TRL's log then hands out what it has of the step that is under way, under the step before it."""

    def train(folder: Path, logs: bool) -> InMemoryTracker:
        tracker = InMemoryTracker()
        callback = RLDKCallback(trackers=[tracker], charts=["env/x"], strict=True)
        trainer = grpo_trainer(folder, max_steps=3, callbacks=[callback], logging_steps=1)
        original = trainer._compute_loss

        def loss(*args: Any, **kwargs: Any) -> Any:
            if logs:
                trainer.log({"env/x": 1.0})
            return original(*args, **kwargs)

        trainer._compute_loss = loss
        trainer.train()
        return tracker

    plain, logging_ = train(tmp_path / "a", False), train(tmp_path / "b", True)
    assert "env/x" not in plain.series and {step for step, _ in logging_.series["env/x"]} == {0, 1, 2}
    for key in ("rldk/reward/mean", "rldk/advantage/std", "rldk/grad/norm", "rldk/diversity/unique_fraction"):
        assert logging_.series[key] == plain.series[key], key
        assert [step for step, _ in plain.series[key]] == [1, 2, 3]


@pytest.mark.slow
def test_in_a_store_the_trainers_number_is_there_once_and_is_judged_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    rules = [above("env/score", 3.0), above("env/scores", 3.0, "team.typo")]
    callback = RLDKCallback(rules=rules, strict=True)
    settings = {"report_to": "mlflow", "reward_funcs": scored, "logging_steps": 1}
    trainer = grpo_trainer(tmp_path, max_steps=3, callbacks=[callback], **settings)
    trainer.train()
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    points = client.get_metric_history(run.info.run_id, "env/score")
    assert [(point.step, point.value) for point in points] == [(1, 32.0), (2, 32.0), (3, 32.0)]
    note = html.unescape(run.data.tags["mlflow.note.content"])
    assert "team.own" in note and "team.typo reads 'env/scores', which was never logged; near: env/score" in note
    report = client.download_artifacts(run.info.run_id, "rldk/report.html", str(tmp_path))
    assert "Numbers of your own" in Path(report).read_text(encoding="utf-8")
    found = replay(f"mlflow:{run.info.run_id}", rules=rules)
    assert [(alert.rule, alert.step, alert.value) for _, alert in found.alerts] == [("team.own", 1, 32.0)]
    assert found.notes == ("team.typo reads 'env/scores', which was never logged; near: env/score",)
