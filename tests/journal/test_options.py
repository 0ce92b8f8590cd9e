"""Options from the environment and from a file: what goes before what, and what is said of one that cannot be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking import AdvancedPPOMonitor, InMemoryTracker, PPOMonitor, RLDKCallback
from rldk_tracking.journal import options
from rldk_tracking.journal.options import FILE, OPTIONS, Options, environment_name
from rldk_tracking.journal.settings import Settings
from rldk_tracking.monitors.training import find_trackers

SECRET = "https://hooks.slack.com/services/SECRET"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arguments_go_before_the_environment_and_that_before_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / FILE).write_text("rules: strict\non_critical: stop\nlevel: full\n")
    monkeypatch.setenv("RLDK_RULES", "quiet")
    monkeypatch.setenv("RLDK_LEVEL", "light")
    callback = RLDKCallback(level="standard")
    assert (callback._level, callback._settings.rules, callback._settings.on_critical) == ("standard", "quiet", "stop")
    assert RLDKCallback()._level == "light"
    monkeypatch.setenv("RLDK_LEVEL", "")
    assert RLDKCallback()._level == "full", "an empty variable is none"


def test_a_webhook_without_an_address_is_said_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_OVERRIDES", "{kl.high: {actions: [{webhook: {environment: PAGER_URL}}]}}")
    with pytest.raises(ValueError, match="kl.high: the webhook needs an address.*PAGER_URL.*RLDK_OVERRIDES"):
        RLDKCallback()


def test_a_class_with_settings_of_its_own_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_RULES", "quiet")
    monkeypatch.setenv("RLDK_OVERRIDES", "{kl.high: {threshold: 0.3}}")
    assert AdvancedPPOMonitor()._settings.rules == "strict"
    assert PPOMonitor()._settings.overrides == {"kl.high": {"threshold": 0.3}}
    assert PPOMonitor(kl_threshold=0.2)._settings.overrides == {"kl.high": {"threshold": 0.2}}


WRITTEN: dict[str, tuple[str, str, Any]] = {
    "rules": ("strict", "strict", "strict"),
    "overrides": ("{kl.high: {threshold: 0.2}}", "{kl.high: {threshold: 0.2}}", {"kl.high": {"threshold": 0.2}}),
    "level": ("full", "full", "full"),
    "on_critical": ("stop", "stop", "stop"),
    "slack_webhook_url": (SECRET, SECRET, SECRET),
    "notify_urls": ("kl=json://a ntfy://b/c", "kl=json://a ntfy://b/c", "kl=json://a ntfy://b/c"),
    "notify_messages": ("ended, alerts", "[alerts, ended]", "alerts,ended"),
    "output_dir": ("/logs", "/logs", "/logs"),
    "charts": ("tools/a, env/b", "[tools/a, env/b]", ["tools/a", "env/b"]),
    "log_samples": ("1", "true", True),
    "performance_benchmarks": ("target_reward: 1.0", "{target_reward: 1.0}", {"target_reward": 1.0}),
    "max_overhead": ("0.1", "0.1", 0.1),
    "strict": ("no", "no", False),
    "view": ("0", "no", False),
}
"""Option to how it is written in the environment and in the file, and its value."""


@pytest.mark.parametrize("name", WRITTEN)
def test_both_forms_of_every_option(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(WRITTEN) <= set(OPTIONS)
    in_environment, in_file, value = WRITTEN[name]
    if name == "notify_urls":
        pytest.importorskip("apprise", reason="needs apprise")
    (folder / FILE).write_text(f"{name}: {in_file}\n")
    assert Options().given[name] == options.Given(value, str(folder.resolve() / FILE))
    (folder / FILE).unlink()
    monkeypatch.setenv(environment_name(name), in_environment)
    assert Options().given[name] == options.Given(value, environment_name(name))
    RLDKCallback()


def test_the_view_is_saved_where_nobody_is_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RLDKCallback()._settings
    assert settings.saves_view
    monkeypatch.setenv("RLDK_VIEW", "0")
    settings.adopt(RLDKCallback()._settings)
    assert not settings.saves_view


def test_paths_in_the_file_are_relative_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "mine.yaml").write_text("rules: mine_rules.yaml\noutput_dir: logs\n")
    (folder / "set" / "mine_rules.yaml").write_text("overrides: {kl.high: {enabled: false}}\n")
    monkeypatch.setenv("RLDK_CONFIG", "set/mine.yaml")
    settings = RLDKCallback()._settings
    assert "kl.high" not in {rule.id for rule in settings.all_rules()}
    assert settings.output_dir == str(Path("set") / "logs")


def test_a_webhook_of_the_file_is_used_where_trackers_are_not_named(folder: Path) -> None:
    (folder / FILE).write_text(f"slack_webhook_url: {SECRET}\n")
    assert RLDKCallback()._settings.slack.secrets()["url"] == SECRET
    assert RLDKCallback(slack=False)._settings.slack is False
    assert RLDKCallback(trackers=[InMemoryTracker()])._settings.slack is None


def test_channels_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("apprise", reason="needs apprise")
    (folder / FILE).write_text(
        "notify_urls:\n- critical=json://host/SECRET\n- ntfy://host/b\nnotify_messages: [alerts]\n"
    )
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", SECRET)
    monitor, trainer = RLDKCallback(), None
    found = find_trackers(trainer, monitor._settings)()
    assert [(one.name, dict(one.address()).get("messages")) for one in found] == [
        ("slack", "alerts"),
        ("notify", "critical"),
        ("notify", "alerts"),
    ]
    assert [one.secrets()["url"] for one in found[1:]] == ["json://host/SECRET", "ntfy://host/b"]
    joined = Settings()
    joined.adopt(monitor._settings)
    assert len(find_trackers(trainer, joined)()) == 3
    assert RLDKCallback(trackers=[InMemoryTracker()])._settings.notify is None
    assert "SECRET" not in str(Options().shown()) + repr(monitor._settings)


WORD = "is no severity, family of rules or kind of message, and a family of your own ends with a dot; did you mean"


def said() -> str:
    with pytest.raises((TypeError, ValueError)) as error:
        RLDKCallback()
    assert "SECRET" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("variable", "written", "sentence"),
    [
        ("RLDK_LEVEL", "ful", 'RLDK_LEVEL must be "light", "standard" or "full", got \'ful\'; did you mean "full"?'),
        ("RLDK_RULES", "saef", "unknown preset 'saef'; did you mean safe? (rules is set by RLDK_RULES)"),
        ("RLDK_STRICT", "maybe", "RLDK_STRICT must be True or False, got 'maybe'."),
        ("RLDK_MAX_OVERHEAD", "2", "RLDK_MAX_OVERHEAD must be a number above 0 and at most 1, got 2."),
        ("RLDK_OVERRIDES", "3", "RLDK_OVERRIDES must be a mapping, got 3: write {name: value}."),
        (
            "RLDK_NOTIFY_MESSAGES",
            "endd",
            f"RLDK_NOTIFY_MESSAGES: 'endd' {WORD} ended?",
        ),
        (
            "RLDK_NOTIFY_URLS",
            "SECRET",
            "channel 1 of RLDK_NOTIFY_URLS is no address: write discord://ID/TOKEN, or critical,kl=discord://...",
        ),
        ("RLDK_CONFIG", "no.yaml", "RLDK_CONFIG must be the path of a settings file, and 'no.yaml' is none."),
    ],
)
def test_what_is_said_of_a_variable(
    variable: str, written: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, written)
    assert said() == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rules: strict\nlevel: full\nrules: quiet", ":3: rules is given in line 1 already: remove one."),
        ("levle: full", ":1: there is no option 'levle'; did you mean level?"),
        ("- strict", " must hold options, such as `rules: strict`, got ['strict']."),
        ("\nmax_overhead: 2", ":2: max_overhead must be a number above 0 and at most 1, got 2."),
        ("slack_webhook_url: 'https://SECRET\n", ":2: found unexpected end of stream."),
        ("slack_webhook_url: [https://SECRET]", ":1: slack_webhook_url must be a text."),
        (
            "slack_webhook_url: http://a/SECRET",
            ": slack_webhook_url: the Slack webhook's address must begin with https://.",
        ),
        ("notify_urls: 3", ":1: notify_urls must be a text."),
        ("notify_urls: [critcal=json://SECRET]", f": notify_urls: channel 1: 'critcal' {WORD} critical?"),
    ],
)
def test_what_is_said_of_a_file(text: str, sentence: str, folder: Path) -> None:
    (folder / FILE).write_text(text)
    assert said() == f"{folder.resolve() / FILE}{sentence}"


def test_two_files_contradict_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "script").mkdir()
    script = folder / "script" / "train.py"
    monkeypatch.setattr("__main__.__file__", str(script), raising=False)
    (folder / "script" / FILE).write_text("rules: strict\n")
    assert RLDKCallback()._settings.rules == "strict", "beside the script"
    (folder / FILE).write_text("rules: quiet\n")
    assert "two settings files" in said() and "RLDK_CONFIG" in said()
    monkeypatch.setenv("RLDK_CONFIG", FILE)
    assert RLDKCallback()._settings.rules == "quiet"


def test_a_misspelt_variable_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    options._say_misspelt.cache_clear()
    monkeypatch.setenv("RLDK_LEVLE", "full")
    monkeypatch.setenv("RLDK_SILENT", "1")
    with caplog.at_level(logging.WARNING):
        RLDKCallback(), RLDKCallback()
    assert [record.getMessage() for record in caplog.records] == [
        "rldk: there is no setting RLDK_LEVLE; did you mean RLDK_LEVEL?"
    ]


def test_what_is_in_force_is_shown_without_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / FILE).write_text(f"slack_webhook_url: {SECRET}\n")
    monkeypatch.setenv("RLDK_RULES", "strict")
    shown = Options().shown()
    assert shown["rules"] == ("strict", "RLDK_RULES")
    assert shown["slack_webhook_url"] == ("***", str(folder.resolve() / FILE))
    assert shown["level"] == ("standard", "default")
