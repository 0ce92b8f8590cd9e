"""The report_to name, in processes of its own: whichever of the two packages is imported first, and however."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rldk_tracking import report_to

pytestmark = pytest.mark.slow

CHECK = """
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_reporting_integration_callbacks
from rldk_tracking import RLDKCallback
assert INTEGRATION_TO_CALLBACK["rldk"] is RLDKCallback
assert get_reporting_integration_callbacks(["rldk"]) == [RLDKCallback]
assert not any(type(finder).__module__ == "rldk_tracking.report_to" for finder in sys.meta_path)
print("registered")
"""


FORKS = """
import json, os, sys, tempfile, traceback
import datasets, pandas, sklearn.metrics, torch, torch._dynamo
assert not {"transformers", "trl", "rldk_tracking"} & set(sys.modules)
for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as shown:
        child = os.fork()
        if not child:
            os.dup2(shown.fileno(), 1)
            os.dup2(shown.fileno(), 2)
            try:
                exec(json.loads(line), {"__name__": "__main__"})
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        shown.seek(0)
        print(json.dumps([code, shown.read()]), flush=True)
"""
"""Each program runs in a process of its own that has what transformers is long in importing, but not transformers."""


@pytest.fixture(scope="module")
def python() -> Iterator[Callable[[str], str]]:
    """Runs a program to its end without an error; returns what it printed."""
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def run(program: str) -> str:
            process.stdin.write(json.dumps(program) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            code, shown = json.loads(process.stdout.readline())  # type: ignore[union-attr]
            assert code == 0, shown
            return str(shown)

        yield run


@pytest.mark.parametrize(
    "imports",
    [
        "import rldk_tracking, transformers.trainer",
        "import transformers.trainer, rldk_tracking",
        "import transformers, rldk_tracking, transformers.trainer",
        "import transformers.integrations, rldk_tracking, transformers.trainer",
        "import rldk_tracking.callback",
        "import rldk_tracking.monitors.base",
        "from rldk_tracking import CheckpointMonitor, PPOMonitor",
        "import rldk_tracking; from trl import GRPOTrainer",
        "import importlib.util, rldk_tracking; importlib.util.find_spec('transformers.integrations.integration_utils')",
    ],
)
def test_the_name_is_registered_in_any_order(imports: str, python: Callable[[str], str]) -> None:
    assert "registered" in python(f"import sys\n{imports}\n{CHECK}")


@pytest.mark.parametrize("after", [1, 5, 60])
def test_imported_in_the_middle_of_the_trainer_s_import(after: int, python: Callable[[str], str]) -> None:
    """When `transformers.trainer` has come so many imports far, something that it imports imports this package."""
    code = f"""
import builtins, sys
original, count = builtins.__import__, 0

def importing(name, globals=None, *args, **kwargs):
    global count
    module = original(name, globals, *args, **kwargs)
    if (globals or {{}}).get("__name__") == "transformers.trainer":
        count += 1
        if count == {after}:
            assert not hasattr(sys.modules["transformers.trainer"], "Trainer")
            import rldk_tracking
    return module

builtins.__import__ = importing
import transformers.trainer
assert "rldk_tracking" in sys.modules
builtins.__import__ = original
{CHECK}"""
    assert "registered" in python(code)


def test_a_trainer_takes_the_name(tmp_path: object) -> None:
    code = f"""
import rldk_tracking
from transformers import Trainer, TrainingArguments
import torch
args = TrainingArguments(output_dir={str(tmp_path)!r}, report_to=["rldk"], use_cpu=True)
trainer = Trainer(model=torch.nn.Linear(2, 2), args=args)
print([type(callback).__name__ for callback in trainer.callback_handler.callbacks])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250)
    assert "RLDKCallback" in result.stdout, result.stderr


def test_without_a_loadable_callback_transformers_still_imports(python: Callable[[str], str]) -> None:
    code = """
import sys
import rldk_tracking
sys.modules["rldk_tracking.callback"] = None
import transformers.trainer
from transformers.integrations import INTEGRATION_TO_CALLBACK
assert "rldk" not in INTEGRATION_TO_CALLBACK
"""
    python(code)


def test_a_module_still_runs_as_a_script() -> None:
    command = [sys.executable, "-m", "rldk_tracking.cli.main", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith("rldk-tracking ")


def test_install_twice_adds_one_finder(python: Callable[[str], str]) -> None:
    code = """
import sys
from rldk_tracking import report_to
report_to.install()
assert sum(type(finder).__module__ == "rldk_tracking.report_to" for finder in sys.meta_path) == 1
report_to.watch_every_trainer()
report_to.watch_every_trainer()
assert sum(type(finder).__module__ == "rldk_tracking.report_to" for finder in sys.meta_path) == 2
assert "transformers" not in sys.modules
"""
    python(code)


def test_with_the_table_loaded_no_finder_is_added(python: Callable[[str], str]) -> None:
    code = f"import sys, transformers.integrations.integration_utils, rldk_tracking\n{CHECK}"
    assert "registered" in python(code)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The class that holds a trainer's callbacks, as `rldk-tracking run` has it, in this process and for one test."""
    from transformers.trainer_callback import CallbackHandler

    for name in ("__init__", "add_callback"):
        monkeypatch.setattr(CallbackHandler, name, getattr(CallbackHandler, name))
    report_to.watch_every_trainer()
    report_to.watch_every_trainer()
    return CallbackHandler


def ours(handler: Any) -> list[Any]:
    from rldk_tracking.monitors.base import Monitor

    return [known for known in handler.callbacks if isinstance(known, Monitor)]


def test_a_trainer_without_one_of_ours_gets_one(watched: type[Any]) -> None:
    handler = watched([], None, None, None, None)
    assert [type(known).__name__ for known in ours(handler)] == ["RLDKCallback"]


def test_one_of_the_user_s_takes_its_place(watched: type[Any]) -> None:
    from rldk_tracking import GroupMonitor, RLDKCallback

    own = RLDKCallback()
    assert ours(watched([own], None, None, None, None)) == [own]
    assert [type(known) for known in ours(watched([GroupMonitor], None, None, None, None))] == [GroupMonitor]
    handler = watched([], None, None, None, None)
    handler.add_callback(own)
    handler.add_callback(GroupMonitor)
    assert [type(known) for known in ours(handler)] == [RLDKCallback, GroupMonitor] and ours(handler)[0] is own


def test_settings_that_cannot_be_end_the_making_of_a_trainer(
    watched: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLDK_LEVEL", "ful")
    with pytest.raises(ValueError, match="RLDK_LEVEL must be"):
        watched([], None, None, None, None)
