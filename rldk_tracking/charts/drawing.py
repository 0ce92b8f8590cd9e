"""Pictures made by a process of their own, for a training process that must neither draw nor wait for it.

`python -m rldk_tracking.charts.drawing` reads a report and the names of pictures as JSON from its input, and writes
name to picture as JSON to its output.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from rldk_tracking.charts.report import Report

logger = logging.getLogger(__name__)

OVERVIEW, REPORT = "overview", "report"
"""Names of pictures; the others are keys of heat-maps."""


def pictures_of(report: Report, names: Sequence[str]) -> dict[str, str]:
    """Name to picture or page, for those of the names for which there is something to draw."""
    from rldk_tracking.charts.pictures import heatmap_svg

    found = {name: heatmap_svg(report.heatmaps[name]) for name in names if name in report.heatmaps}
    if OVERVIEW in names:
        found[OVERVIEW] = report.overview()
    if REPORT in names:
        found[REPORT] = report.html()
    return {name: picture for name, picture in found.items() if picture}


class Task:
    """A process of this package that answers one request.

    Args:
        module: run with `python -m`; reads the request as JSON from its input, and writes the answer to its output.
        request: as JSON has it.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, module: str, request: Any) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the process
        self._faults = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(request, default=str).encode())
            file.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", module], stdin=file, stdout=self._output, stderr=self._faults
            )

    @property
    def is_done(self) -> bool:
        """Whether its answer is there."""
        return self._process.poll() is not None

    def answer(self, timeout_s: float) -> Any:
        """What it wrote, None where it has failed or takes longer; to be called once."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        with self._output, self._faults:
            if status == 0:
                self._output.seek(0)
                return json.load(self._output)
            self._faults.seek(0)
            words = self._faults.read().decode(errors="replace").strip().splitlines()
        logger.info("%s failed: %s", self._process.args, words[-1] if words else f"it took longer than {timeout_s:g} s")
        return None


class Drawing(Task):
    """A process that draws.

    Args:
        report: what is known of the run.
        names: what to draw, see `pictures_of`.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, report: Report, names: Sequence[str]) -> None:
        super().__init__(__name__, {"report": report.as_dict(), "names": list(names)})

    def pictures(self, timeout_s: float) -> dict[str, str]:
        """Name to picture, none where it has failed or takes longer; to be called once."""
        return dict(self.answer(timeout_s) or {})


def main() -> None:
    """Answer the request on the input."""
    request = json.load(sys.stdin)
    json.dump(pictures_of(Report.of(request["report"]), request["names"]), sys.stdout)


if __name__ == "__main__":
    main()
