"""`rldk-tracking run -- COMMAND`: the callback in every transformers trainer of a command, without an edit.

The processes of the command are reached by their environment: a folder at the head of PYTHONPATH has a `sitecustomize`,
which Python imports first of all. What they come to is written into a file, of which is told where no training began.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rldk_tracking.health.presets import SUFFIXES
from rldk_tracking.journal.options import FILE_ENVIRONMENT, OPTIONS, Options, environment_name
from rldk_tracking.messages.arguments import printable
from rldk_tracking.messages.seen import SEEN
from rldk_tracking.trackers.slack import ENVIRONMENT

STARTUP = Path(__file__).with_name("startup")
WRONG, NOT_EXECUTABLE, NOT_FOUND = 2, 126, 127
"""Exit codes where there is no command's: as those of a shell."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    for name, option in OPTIONS.items():
        if not option.is_secret:
            flag = f"--{name.replace('_', '-')}"
            default = option.default or "none" if option.default is not False else "no"
            parser.add_argument(flag, metavar="VALUE", help=f"as {environment_name(name)}; default: {default}")
    parser.add_argument("--config", metavar="FILE", help=f"settings, as {FILE_ENVIRONMENT}")
    parser.add_argument("--slack-from-env", action="store_true", help=f"insist on a Slack webhook in {ENVIRONMENT}")
    parser.add_argument("command_line", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="what is run")


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns its exit code; a signal that ends it ends this process too."""
    command = arguments.command_line[arguments.command_line[:1] == ["--"] :]
    try:
        program = _program(command)
        os.environ.update(_settings(arguments))
        options = Options()
        if options.given:  # else there is nothing that could be wrong, and rules take long to read
            options.settings()
        if arguments.slack_from_env and not os.environ.get(ENVIRONMENT):
            raise ValueError(f"--slack-from-env contradicts the environment: {ENVIRONMENT} is not set.")
    except (TypeError, ValueError) as error:
        return _say(str(error), WRONG)
    except FileNotFoundError as error:
        return _say(str(error), NOT_FOUND)
    path = os.pathsep.join([str(STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    if not hasattr(signal, "sigwaitinfo"):  # the command takes this process's place, and nothing is said at its end
        os.execve(program, command, environment)  # noqa: S606
    with tempfile.TemporaryDirectory(prefix="rldk-run-") as folder:
        seen = Path(folder) / "seen"
        seen.touch()
        try:
            code = _ended(program, command, {**environment, SEEN: str(seen)})
        except OSError as error:
            return _say(f"{program} cannot be run: {error.strerror}.", NOT_EXECUTABLE)
        if missing := _missing(command[0], seen.read_text(encoding="utf-8").splitlines()):
            _say(missing, code)
    if code < 0:
        _end_by(-code)
    return code


def _program(command: Sequence[str]) -> str:
    """The path of what is to be run.

    Raises:
        ValueError: nothing is to be run.
        FileNotFoundError: there is no such program.
    """
    if not command:
        raise ValueError("no command is given: write rldk-tracking run -- python train.py")
    program = shutil.which(command[0])
    if program is None:
        is_script = command[0].endswith(".py") and Path(command[0]).is_file()
        hint = f": write python {command[0]}" if is_script else ""
        raise FileNotFoundError(f"there is no command {command[0]!r}{hint}.")
    return program


def _settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The options that are given, as environment variables; paths absolute, as a process may change its folder."""
    found = {environment_name(name): getattr(arguments, name, None) for name in OPTIONS}
    found[FILE_ENVIRONMENT] = arguments.config
    paths = (FILE_ENVIRONMENT, environment_name("output_dir"))
    return {
        name: os.path.abspath(value) if name in paths or value.endswith(SUFFIXES) else value
        for name, value in found.items()
        if value is not None
    }


def _ended(program: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it to its end, handing on what signals come. Returns its code, negative where a signal ended it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})

    def begin() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if sys.platform == "linux":  # whoever kills this process means the command
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    try:
        child = subprocess.Popen(command, executable=program, env=environment, preexec_fn=begin)
        while child.poll() is None:
            received = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
            # What the kernel sends (a positive code) comes from the terminal, and the command has it already.
            if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
                child.send_signal(received.si_signo)
        return child.returncode
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _missing(name: str, seen: Sequence[str]) -> str:
    """Why no trainer is watched, from what the processes came to; empty where one is, or where that was said."""
    if "training" in seen or (seen and "python" not in seen):
        return ""
    if not seen:
        return (
            f"no trainer began; no Python process was reached on this machine. {name} is no Python program and starts "
            "none, or the environment is replaced on the way (env -i, sudo, python -I or -E, a container). Write "
            "`rldk-tracking run --` directly before the Python command."
        )
    if "transformers" not in seen:
        return (
            "no trainer began; nothing imported a transformers trainer. A training loop of your own calls "
            "RLDKCallback().observe(...)."
        )
    return "no trainer began."


def _say(what: str, code: int) -> int:
    """Say it on stderr. Returns the code."""
    sys.stderr.write(f"rldk-tracking run: {printable(what)}\n")
    sys.stderr.flush()
    return code


def _end_by(number: int) -> None:
    """End as the command did. Its memory was written already, where that is wanted."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
