"""After the last tox environment: every test that one environment skipped must have run in another.

    python tests/union.py RESULTS_FOLDER ENVIRONMENT...

Exits with 1, naming the tests, where something ran nowhere. What this machine cannot run, whatever the versions, is
named too, but fails only where the variable CI is set. An environment without results was not run; then nothing can be
said, and the exit code is 0.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MACHINE = ("Chromium is not installed", "No package index is reached", "from Python ", "measures with Linux")
"""How reasons begin that are of the machine, not of a version that another environment has."""


def unrun(results: dict[str, dict[str, object]]) -> dict[str, str]:
    """Tests, or files that were skipped as a whole, that no environment ran, with the reason of the skip."""
    ran = {test for result in results.values() for test in result["ran"]}  # type: ignore[attr-defined]
    files = {test.partition("::")[0] for test in ran}
    skipped = {test: why for result in results.values() for test, why in result["skipped"].items()}  # type: ignore[attr-defined]
    return {test: why for test, why in skipped.items() if test not in ran and not ("::" not in test and test in files)}


def main(arguments: list[str]) -> int:
    folder, environments = Path(arguments[0]), arguments[1:]
    paths = {name: folder / f"{name}.json" for name in environments}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        print(f"no results of {', '.join(missing)}: run tox without -e to hold the environments against each other")
        return 0
    left = unrun({name: json.loads(path.read_text()) for name, path in paths.items()})
    for test, why in sorted(left.items()):
        print(f"ran in no environment: {test} ({why})")
    print(f"{len(left)} of the skipped tests ran in no environment ({', '.join(environments)})")
    of_the_machine = all(why.removeprefix("Skipped: ").startswith(MACHINE) for why in left.values())
    return 0 if of_the_machine and not (left and os.environ.get("CI")) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
