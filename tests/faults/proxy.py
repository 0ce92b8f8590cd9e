"""A reverse proxy on loopback that can be told to fail as servers and networks fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests


class Proxy:
    """Passes requests on to `target`, or fails.

    Attributes:
        status: answer everything with this HTTP status instead.
        delay: seconds to wait before each request is passed on.
        calls: requests so far.
    """

    def __init__(self, target: str) -> None:
        self.status: int | None = None
        self.delay = 0.0
        self.calls = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                proxy.calls += 1
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if proxy.status is not None:
                    self._answer(proxy.status, b'{"error_code": "INTERNAL_ERROR", "message": "told to fail"}', {})
                    return
                time.sleep(proxy.delay)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
                answer = requests.request(
                    self.command, target + self.path, data=body, headers=headers, timeout=60, allow_redirects=False
                )
                self._answer(
                    answer.status_code, answer.content, {"Content-Type": answer.headers.get("Content-Type", "")}
                )

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # A client that is killed leaves broken connections, which are no news.
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class DistantProxy:
    """The same in a process of its own, which takes no time from the training that it stands before."""

    def __init__(self, target: str) -> None:
        command = [sys.executable, "-m", "tests.faults.proxy", target]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        self.url = self._said()

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, status: int | None = None, delay: float = 0.0) -> None:
        """Change what it does with requests from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"status": status, "delay": delay}) + "\n")
        self.process.stdin.flush()
        self._said()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    proxy = Proxy(sys.argv[1])
    print(proxy.url, flush=True)
    for line in sys.stdin:
        vars(proxy).update(json.loads(line))
        print("done", flush=True)
