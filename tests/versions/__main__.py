"""The small suite with one TRL release after the other: `python -m tests.versions [RELEASE ...]`, all without a name.

Each release of `requirements/` is installed, with the transformers of its time, into a folder that lies before the
packages of this environment; torch, MLflow and the rest are this environment's. `installed` is the release that is
in this environment. Two run at a time. What was found is in `--results`, one file a release.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
RELEASES = sorted(
    (path.stem for path in (FOLDER / "requirements").glob("*.txt")), key=lambda v: [*map(int, v.split("."))]
)
INSTALLED = "installed"


def install(release: str, place: Path) -> Path:
    """The release's packages and no others, so that nothing that is here already is installed again."""
    requirements, target = FOLDER / "requirements" / f"{release}.txt", place / release
    stamp = target / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != requirements.read_text():
        options = ["--quiet", "--no-deps", "--no-compile", "--upgrade", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, "-r", str(requirements)], check=True)
        stamp.write_text(requirements.read_text())
    return target


def run(release: str, place: Path, results: Path) -> tuple[int, str]:
    """Exit code of pytest and what it printed."""
    before = [] if release == INSTALLED else [str(install(release, place))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*before, str(ROOT)])}
    environment["RLDK_VERSION_RESULTS"] = str(results)
    environment.pop("RLDK_TEST_RESULTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / "suite.py")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def main() -> int:
    """Returns 1 where the suite of a release failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="*", choices=[[], INSTALLED, *RELEASES])
    parser.add_argument("--place", type=Path, default=ROOT / ".tox" / "releases", help="where releases are installed")
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    failed = 0

    def suite(release: str) -> tuple[str, int, str, float]:
        begin = time.monotonic()
        code, text = run(release, arguments.place.resolve(), arguments.results.resolve())
        return release, code, text, time.monotonic() - begin

    with ThreadPoolExecutor(2) as pool:
        for release, code, text, seconds in pool.map(suite, arguments.releases or [INSTALLED, *RELEASES]):
            failed += code != 0
            print(f"TRL {release}, {seconds:.0f} s: {text.strip().splitlines()[-1]}", flush=True)
            if code:
                print(text, flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
