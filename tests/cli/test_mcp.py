"""An agent's session: the client of the `mcp` package, over stdio, with the command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import mcp
import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.cli.mcp import _answering
from rldk_tracking.history.queries import Runs
from rldk_tracking.messages.packages import install_line
from tests.cli.test_main import ROOT, command
from tests.history.test_queries import KL, watched

Asked = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs."""
    folder = tmp_path_factory.mktemp("runs")
    watched(folder / "one")
    watched(folder / "two", fires_at=20, beta=0.1)
    return folder


@pytest.fixture(scope="module")
def session(folder: Path) -> dict[str, Any]:
    """What a client sees of one session: the server, its tools, and each answer by the name that is given here."""
    one, two = str(folder / "one"), str(folder / "two")
    calls: dict[str, Asked] = {
        "runs": ("list_runs", {}),
        "verdict": ("verdict", {"run": one}),
        "alerts": ("open_alerts", {"run": one}),
        "explain": ("explain_rule", {"rule": "kl.high"}),
        "series": ("series", {"run": one, "key": KL, "most": 10}),
        "compare": ("compare", {"first": one, "second": two}),
        "outside": ("verdict", {"run": str(folder.parent)}),
        "no rule": ("explain_rule", {"rule": "kl.hihg"}),
        "no key": ("series", {"run": one, "key": "rldk/kl/ref"}),
        "no run": ("verdict", {"run": str(folder / "three")}),
    }

    async def talk() -> dict[str, Any]:
        server = mcp.StdioServerParameters(
            command=sys.executable,
            args=["-m", "rldk_tracking", "mcp", str(folder)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        async with mcp.Client(server) as client:
            found: dict[str, Any] = {"tools": (await client.list_tools()).tools}
            for name, (tool, arguments) in calls.items():
                found[name] = await client.call_tool(tool, arguments)
        return found

    return anyio.run(talk)


def test_every_question_is_a_tool_that_reads_only(session: dict[str, Any]) -> None:
    tools = {tool.name: tool for tool in session["tools"]}
    assert {*tools} == {"list_runs", "verdict", "open_alerts", "explain_rule", "series", "compare"}
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools.values())
    assert tools["series"].input_schema["required"] == ["run"]
    assert {*tools["series"].input_schema["properties"]} == {"run", "key", "first_step", "last_step", "most"}


def test_answers_are_those_of_the_package(session: dict[str, Any], folder: Path) -> None:
    runs, one, two = Runs([str(folder)]), str(folder / "one"), str(folder / "two")
    expected = {
        "runs": runs.list_runs(),
        "verdict": runs.verdict(one),
        "alerts": runs.open_alerts(one),
        "series": runs.series(one, KL, most=10),
        "compare": runs.compare(one, two),
    }
    for name, answer in expected.items():
        assert not session[name].is_error
        assert session[name].structured_content == json.loads(json.dumps(answer)), name
        assert json.loads(session[name].content[0].text) == session[name].structured_content
    assert session["explain"].content[0].text == runs.explain_rule("kl.high")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outside", "outside of what this server may read"),
        ("no rule", "no rule 'kl.hihg'; there are kl.high"),
        ("no key", "did you mean rldk/kl/ref_k3?"),
        ("no run", "three: no such file or folder."),
    ],
)
def test_a_mistake_is_a_sentence_and_the_session_goes_on(name: str, said: str, session: dict[str, Any]) -> None:
    assert session[name].is_error and said in session[name].content[0].text


def test_what_is_printed_stays_out_of_the_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    def tool(run: str) -> dict[str, Any]:
        print("a client's own words")
        return {"run": run, "value": float("nan")}

    assert _answering(tool)(run="a") == {"run": "a", "value": "nan"}
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "a client's own words\n")


def test_a_client_that_goes_ends_the_server(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rldk_tracking", "mcp"], input="no JSON\n", cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in done.stdout.splitlines())


def test_a_wrong_source_or_no_package_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="none: no such file or folder"):
        main(["mcp", str(tmp_path / "none")])
    done = command("sys.modules['mcp'] = None", "mcp")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rldk-tracking mcp needs mcp, which is not installed: {install_line('mcp')}\n"
