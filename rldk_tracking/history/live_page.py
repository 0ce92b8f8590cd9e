"""A run's report on a page of this machine, made anew where the run's journal has grown.

A process of its own reads the journal and draws: the page may be served by the one that trains.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rldk_tracking.history.past import newest_journal
from rldk_tracking.history.run_history import UnreadableSourceError

HOST = "127.0.0.1"
REFRESH_S = 30
"""How often a browser asks for the page again."""
MAKING_S = 120.0
"""A report that takes longer is given up."""


class LivePage:
    """Serves the report of the newest run in a folder, at one address, to this machine only.

    The page is made when it is asked for, on a thread of the server, and kept until the journal grows.

    Args:
        folder: with a journal, see `rldk_tracking.history.past.newest_journal`.
        port: of the server, 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._made: tuple[Path, int, bytes] | None = None
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in http.server
                """Nothing: the terminal is the training's."""

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="rldk report page", daemon=True).start()

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.port}/"

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        # Another name for this machine would be a page of a stranger's that reads ours through the user's browser.
        if request.headers.get("Host") not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            status, kind, body = 403, "text/plain", b"for this machine only"
        elif request.path != "/":
            status, kind, body = 404, "text/plain", b"there is one page, /"
        else:
            try:
                status, kind, body = 200, "text/html", self._report()
            except (UnreadableSourceError, OSError, subprocess.SubprocessError) as fault:
                status, kind, body = 503, "text/plain", str(fault).encode()
        request.send_response(status)
        request.send_header("Content-Type", f"{kind}; charset=utf-8")
        if request.path == "/":
            request.send_header("Refresh", str(REFRESH_S))
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Cache-Control", "no-store")
        request.end_headers()
        request.wfile.write(body)

    def _report(self) -> bytes:
        journal = newest_journal(self._folder)
        if journal is None:
            raise UnreadableSourceError(f"{self._folder}: the run's journal is gone.")
        size = journal.stat().st_size
        with self._lock:
            if self._made is None or self._made[:2] != (journal, size):
                self._made = journal, size, _report(journal, self._folder.name)
            return self._made[2]


def _report(journal: Path, title: str) -> bytes:
    """What `rldk-tracking report` makes of a journal."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        command = [sys.executable, "-m", "rldk_tracking", "report", str(journal), "-o", str(page), f"--title={title}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAKING_S, check=False)
        if done.returncode != 0:
            raise UnreadableSourceError(done.stderr.strip() or f"The report failed with code {done.returncode}.")
        return page.read_bytes()
