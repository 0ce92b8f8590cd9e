"""A walk through what a user may write wrongly: each error names the argument, the value, and what to write.

`python -m tests.test_wrong_arguments` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rldk_tracking
from rldk_tracking import InMemoryTracker, RLDKCallback
from rldk_tracking.health import actions
from rldk_tracking.health.actions import Webhook, action

NAN = float("nan")
SECRET = "ftp://hooks.example/T0/SECRET"
LEVEL = 'id="a.b", keys=["rldk/length/mean"], condition="level"'
TRACKERS = "write trackers=[MLflowTracker()], or leave it out for those of the trainer's report_to."
STRING = "a string: write 0.2 without quotation marks, or convert it with float()."

WRONG: dict[str, str] = {
    # Backends.
    'RLDKCallback(trackers="mlflow")': f"trackers must be a list of trackers, got 'mlflow': {TRACKERS}",
    'RLDKCallback(trackers=["mlflow"])': f"trackers must hold trackers, got 'mlflow': {TRACKERS}",
    "RLDKCallback(trackers=[MLflowTracker])": (
        "trackers must hold trackers, got the class MLflowTracker: write MLflowTracker()."
    ),
    "RLDKCallback(trackers=InMemoryTracker())": (
        "trackers must be a list, got an InMemoryTracker: write trackers=[...] around it."
    ),
    "RLDKCallback(trackers=InMemoryTracker)": (
        "trackers must be a list of trackers, got the class InMemoryTracker: write trackers=[InMemoryTracker()]."
    ),
    "RLDKCallback(output_dir=5)": (
        'output_dir must be the path of a folder, got 5: write output_dir="rldk_logs", or leave it out.'
    ),
    'PPOMonitor(output_dir="")': (
        "output_dir must be the path of a folder, got '': write output_dir=\"rldk_logs\", or leave it out."
    ),
    "RLDKCallback(slack=True)": (
        "slack must be a webhook's address, a SlackNotifier or False, got True: write "
        'slack="https://hooks.slack.com/services/...", or leave it out for the address in RLDK_SLACK_WEBHOOK_URL.'
    ),
    "RLDKMonitor(slack=SECRET)": (
        "slack: the Slack webhook's address must begin with https://: write "
        'slack="https://hooks.slack.com/services/...", or leave it out for the address in RLDK_SLACK_WEBHOOK_URL.'
    ),
    "MLflowTracker(run_id=5)": 'run_id must be a run\'s id, got 5: write run_id="<32 digits>", or leave it out.',
    'MLflowTracker(run_id="")': "run_id must be a run's id, got '': write run_id=\"<32 digits>\", or leave it out.",
    "MLflowTracker(tracking_uri=5000)": (
        'tracking_uri must be a server\'s address, got 5000: write tracking_uri="http://127.0.0.1:5000", '
        "or leave it out."
    ),
    "MLflowTracker(experiment=3)": (
        'experiment must be an experiment\'s name, got 3: write experiment="my-experiment", or leave it out.'
    ),
    'MLflowTracker(runid="a")': "MLflowTracker has no argument 'runid'; did you mean run_id?",
    'WandbTracker("entity/project/run")': (
        "run must be a run of W&B, got 'entity/project/run': write run=wandb.init(...), or leave it out."
    ),
    "JsonlTracker(5)": (
        'path must be the path of a file or folder, got 5: write path="rldk/run.jsonl", or leave it out.'
    ),
    "InMemoryTracker(1)": "InMemoryTracker takes no arguments, got 1.",
    "SlackNotifier(5)": "the Slack webhook's address must be a string, got a value of type int.",
    "SlackNotifier(SECRET)": "the Slack webhook's address must begin with https://",
    'SlackNotifier(SECRET, min_severity="warn")': (
        'min_severity must be "info", "warning" or "critical", got \'warn\'; did you mean "warning"?'
    ),
    'SlackNotifier(SECRET, allow_loopback="yes")': "allow_loopback must be True or False, got 'yes': write True.",
    "SlackNotifier(SECRET, retries=-1)": "retries must be a whole number of at least 0, got -1.",
    "SlackNotifier(SECRET, backoff=NAN)": "backoff must be a number of at least 0, got nan.",
    "RLDKDashboard(port='5000')": (
        "port must be a whole number of at least 0 and at most 65535, got '5000', a string: write 5000 without "
        "quotation marks, or convert it with int()."
    ),
    "RLDKDashboard(port=70000)": "port must be a whole number of at least 0 and at most 65535, got 70000.",
    "RLDKDashboard(output_dir=5)": (
        'output_dir must be the path of a folder, got 5: write output_dir="the/folder/of/the/training", '
        "or leave it out."
    ),
    "RLDKDashboard(auto_refresh='no')": "auto_refresh must be True or False, got 'no': write False.",
    "RLDKDashboard(prot=1)": "RLDKDashboard has no argument 'prot'; did you mean port?",
    # The callback's own.
    'RLDKCallback("safe")': (
        "RLDKCallback takes 'safe' by name only: write RLDKCallback(NAME='safe') with one of trackers, monitors, "
        "rules, overrides, on_critical, slack, level, log_samples, gold_score_fn, output_dir, charts, "
        "performance_benchmarks, max_overhead, strict, trainer."
    ),
    "RLDKCallback(kl_threshold=.1)": (
        'RLDKCallback has no argument \'kl_threshold\': write overrides={"kl.high": {"threshold": ...}}.'
    ),
    "PPOMonitor(kl_treshold=.1)": "PPOMonitor has no argument 'kl_treshold'; did you mean kl_threshold?",
    "GroupMonitor(log_smaples=True)": "GroupMonitor has no argument 'log_smaples'; did you mean log_samples?",
    "RLDKMonitor(outputdir='a')": "RLDKMonitor has no argument 'outputdir'; did you mean output_dir?",
    "RLDKCallback(monitors=PPOMonitor())": "monitors must be a list, got a PPOMonitor: write monitors=[...] around it.",
    "RLDKCallback(monitors=[PPOMonitor])": (
        "monitors must hold monitors, got the class PPOMonitor: write PPOMonitor()."
    ),
    "RLDKCallback(monitors=['ppo'])": "monitors must hold monitors, got 'ppo': write monitors=[PPOMonitor()].",
    'RLDKCallback(level="deep")': 'level must be "light", "standard" or "full", got \'deep\'.',
    'CheckpointMonitor(level="deep")': 'level must be "light", "standard" or "full", got \'deep\'.',
    "CheckpointMonitor(keep_weights='no')": "keep_weights must be True or False, got 'no': write False.",
    "CheckpointMonitor(enable_parameter_analysis=0)": (
        "enable_parameter_analysis must be True or False, got 0: write False."
    ),
    "CheckpointMonitor(enable_gradient_analysis=None)": "enable_gradient_analysis must be True or False, got None.",
    "CheckpointMonitor(reference=5)": (
        'reference must be the path of a folder, got 5: write reference="path/of/the/model", or leave it out.'
    ),
    "CheckpointMonitor(close_timeout=-1)": "close_timeout must be a number of at least 0, got -1.",
    "AdvancedPPOMonitor(enable_advanced_analytics='yes')": (
        "enable_advanced_analytics must be True or False, got 'yes': write True."
    ),
    'RLDKCallback(on_critical="halt")': 'on_critical must be "alert" or "stop", got \'halt\'.',
    "RLDKCallback(on_critical=True)": 'on_critical must be "alert" or "stop", got True.',
    "RLDKCallback(log_samples=1)": "log_samples must be True or False, got 1: write True.",
    "GroupMonitor(log_samples='false')": "log_samples must be True or False, got 'false': write False.",
    "RLDKCallback(strict='yes')": "strict must be True or False, got 'yes': write True.",
    "RLDKCallback(gold_score_fn='judge')": ("gold_score_fn must be callable as f(prompts, completions), got 'judge'."),
    "RLDKCallback(gold_score_fn=dict)": (
        "gold_score_fn must be callable as f(prompts, completions), got the class dict: write dict(...)."
    ),
    "RLDKCallback(gold_score_fn=lambda completions: [0.0])": (
        "gold_score_fn must be callable as f(prompts, completions), and its signature is (completions): "
        "too many positional arguments."
    ),
    "RLDKCallback(max_overhead='0.2')": f"max_overhead must be a number above 0 and at most 1, got '0.2', {STRING}",
    "RLDKCallback(max_overhead=2)": "max_overhead must be a number above 0 and at most 1, got 2.",
    "RLDKCallback(trainer='grpo')": "trainer must be a transformers or TRL trainer, got 'grpo'.",
    "attach({})": "attach() takes a transformers or TRL trainer, got {}.",
    "PPOMonitor(kl_threshold='0.2')": f"kl_threshold must be a number of at least 0, got '0.2', {STRING}",
    "PPOMonitor(reward_threshold=-1)": "reward_threshold must be a number of at least 0, got -1.",
    "PPOMonitor(gradient_threshold=NAN)": "gradient_threshold must be a number of at least 0, got nan.",
    # Goals.
    "CustomRLDKCallback(performance_benchmarks=1.0)": (
        'performance_benchmarks must be a mapping, got 1.0: write performance_benchmarks={"target_reward": 1.0}.'
    ),
    "CustomRLDKCallback(performance_benchmarks={'target_rewrad': 1})": (
        "performance_benchmarks knows no 'target_rewrad'; did you mean target_reward?"
    ),
    "CustomRLDKCallback(performance_benchmarks={'min_reward': '0.2'})": (
        f"performance_benchmarks['min_reward'] must be a finite number, got '0.2', {STRING}"
    ),
    "CustomRLDKCallback(performance_benchmarks={'max_clip_fraction': 20})": (
        "performance_benchmarks['max_clip_fraction']: rule 'goal.max_clip_fraction': threshold must be at most 1, as "
        "rldk/policy/clip_fraction is, got 20: it is a share, not per cent."
    ),
    # Rules and what is changed of them.
    "RLDKCallback(rules=3)": (
        'rules must be "safe", "strict", "quiet", the path of a .yaml file, or a list of Rule, got 3: '
        'leave it out for "safe".'
    ),
    "RLDKCallback(rules='saef')": "unknown preset 'saef'; did you mean safe?",
    "RLDKCallback(rules=[Rule])": 'rules must hold Rule objects, got the class Rule: write Rule(id="team.slow", ...).',
    "RLDKCallback(overrides=['kl.high'])": (
        'overrides must be a mapping, got [\'kl.high\']: write overrides={"kl.high": {"threshold": 0.2}}.'
    ),
    "PPOMonitor(overrides=3)": ('overrides must be a mapping, got 3: write overrides={"kl.high": {"threshold": 0.2}}.'),
    "RLDKCallback(overrides={'kl.high': 0.2})": (
        'rule \'kl.high\': an override is a mapping of its fields, got 0.2: write {"kl.high": {"threshold": 0.2}}.'
    ),
    "RLDKCallback(overrides={'kl.hihg': {}})": ("rule 'kl.hihg': there is no such rule; did you mean kl.high?"),
    "RLDKCallback(overrides={'kl.high': {'threshold': '0.2'}})": (
        f"rule 'kl.high': threshold must be a finite number, got '0.2', {STRING}"
    ),
    "RLDKCallback(overrides={'kl.high': {'threshold': '1e-1'}})": (
        "rule 'kl.high': threshold must be a finite number, got '1e-1', a string: write 0.1 "
        "(YAML reads an exponent without a point as a string)."
    ),
    "RLDKCallback(overrides={'kl.high': {'threshold': NAN}})": (
        "rule 'kl.high': threshold must be a finite number, got nan."
    ),
    "RLDKCallback(overrides={'kl.high': {'threshold': -1}})": (
        "rule 'kl.high': threshold must be at least 0, as rldk/kl/ref_k1 is, got -1."
    ),
    "RLDKCallback(overrides={'length.truncated': {'threshold': 40}})": (
        "rule 'length.truncated': threshold must be at most 1, as rldk/length/truncated_fraction is, got 40: "
        "it is a share, not per cent."
    ),
    "RLDKCallback(overrides={'kl.high': {'enabled': 'no'}})": (
        "rule 'kl.high': enabled must be True or False, got 'no': write False."
    ),
    "RLDKCallback(overrides={'kl.high': {'treshold': 1}})": (
        "rule 'kl.high': there is no field 'treshold'; did you mean threshold?"
    ),
    "RLDKCallback(overrides={'kl.high': {'warm_up_steps': '3'}})": (
        "rule 'kl.high': warm_up_steps must be a valid integer, got '3'."
    ),
    "Rule()": (
        'a rule without an id: id and keys and condition are missing: write id="team.slow", '
        'keys=["rldk/reward/mean"], condition="level".'
    ),
    f"Rule({LEVEL})": "rule 'a.b': condition 'level' needs threshold: write parameters={'threshold': ...}.",
    f"Rule({LEVEL}, threshold=3)": (
        "rule 'a.b': threshold is a parameter of condition 'level': write parameters={'threshold': ...}."
    ),
    "Rule(id='a.b', keys='x', condition='level')": (
        "rule 'a.b': keys: a list of series is wanted, got 'x': write ['x']."
    ),
    "Rule(id='a.b', keys=['lenght/mean'], condition='level')": (
        "rule 'a.b': keys: there is no series 'lenght/mean'; did you mean rldk/length/mean? "
        "A number that is logged under this very name is train/lenght/mean."
    ),
    "Rule(id='a.b', keys=['x'], condition='written', parameters={'when': 'mean(\"lenght/mean\", 20) > 1'})": (
        "rule 'a.b': when: column 6: there is no series 'lenght/mean'; did you mean rldk/length/mean? "
        "A number that is logged under this very name is train/lenght/mean."
    ),
    f"Rule({LEVEL}, parameters={{'threshold': 1}}, actions=['sotp'])": (
        "rule 'a.b': actions: an action is alert, stop, save, call: NAME, webhook: ADDRESS, "
        "webhook: {environment: NAME}, or in Python a function; this is none of them; did you mean stop?"
    ),
    f"Rule({LEVEL}, parameters={{'threshold': 1}}, actions=[lambda: None])": (
        "rule 'a.b': actions: an action must be callable as f(alert), and its signature is (): "
        "too many positional arguments."
    ),
    f"RLDKCallback(rules=[Rule({LEVEL}, parameters={{'threshold': 1}}, actions=[Webhook(SECRET)])])": (
        "a.b: the webhook's address must begin with https://"
    ),
    f"RLDKCallback(rules=[Rule({LEVEL}, parameters={{'threshold': 1}}, actions=[{{'call': 'me'}}])])": (
        "no function is named 'me' (named: none yet); name it with @action('me')."
    ),
    "Webhook(5)": "the address of a webhook must be a string, got a value of type int.",
    "action(len)": (
        '@action needs a name, got a builtin_function_or_method: write @action("page_me") above the function.'
    ),
    # Past runs.
    "replay('run.jsonl', aliases={'foo': 'rldk/nosuch'})": (
        "aliases['foo']: there is no series 'rldk/nosuch', and no rule reads it; see `rldk-tracking keys`."
    ),
    "replay('run.jsonl', aliases={'foo': 'rldk/reward/maen'})": (
        "aliases['foo']: there is no series 'rldk/reward/maen'; did you mean rldk/reward/mean?"
    ),
}
"""Call to what it says."""


def said(call: str) -> str:
    names: dict[str, Any] = {name: getattr(rldk_tracking, name) for name in rldk_tracking.__all__}
    names |= {"Webhook": Webhook, "action": action, "NAN": NAN, "SECRET": SECRET}
    try:
        eval(call, names)  # noqa: S307 - one of those above
    except (TypeError, ValueError) as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("call", WRONG)
def test_what_is_said(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_FUNCTIONS", {})  # other tests have named some
    assert said(call) == WRONG[call]
    assert "SECRET" not in WRONG[call]


def test_an_address_in_the_environment_is_looked_at_when_the_callback_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", SECRET)
    with pytest.raises(ValueError, match="must begin with https") as refused:
        RLDKCallback()
    assert "RLDK_SLACK_WEBHOOK_URL" in str(refused.value) and "SECRET" not in str(refused.value)
    RLDKCallback(trackers=[InMemoryTracker()])
    RLDKCallback(slack=False)


def test_what_may_be_written() -> None:
    RLDKCallback(trackers=(InMemoryTracker(),), output_dir=Path("logs"), rules=[], monitors=(), overrides=None)
    RLDKCallback(overrides={"kl.high": {"threshold": None, "enabled": True}}, slack=False, performance_benchmarks={})
    RLDKCallback(gold_score_fn=lambda prompts, completions, extra=0: [0.0])


def lines() -> Iterator[str]:
    for call in WRONG:
        yield f"{call}\n    {said(call)}\n"


if __name__ == "__main__":
    sys.stdout.writelines(lines())
