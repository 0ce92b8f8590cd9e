"""As much of W&B's server as a run needs: a run is made, rows and alerts come in."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbBackend:
    """Listens on loopback.

    Attributes:
        operations: names of the GraphQL operations, in the order in which they came.
        alerts: variables of each alert.
        rows: history rows, in order.
        fail: answer everything with this HTTP status, if set.
    """

    def __init__(self) -> None:
        self.operations: list[str] = []
        self.alerts: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.fail: int | None = None
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                if backend.fail is not None:
                    return self._answer({}, backend.fail)
                if self.path.endswith("/file_stream"):
                    history = body.get("files", {}).get("wandb-history.jsonl", {})
                    backend.rows.extend(json.loads(line) for line in history.get("content", []))
                    return self._answer({})
                return self._answer(backend.graphql(body))

            def do_GET(self) -> None:
                self._answer({})

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer({})

            def _answer(self, content: Any, status: int = 200) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def graphql(self, body: dict[str, Any]) -> dict[str, Any]:
        query, variables = body.get("query", ""), body.get("variables") or {}
        operation = query.split("(")[0].split("{")[0].split()[-1]
        self.operations.append(operation)
        if operation == "Viewer":
            viewer = {"id": "1", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        if operation == "NotifyScriptableRunAlert":
            self.alerts.append(variables)
            return {"data": {"notifyScriptableRunAlert": {"success": True}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables.get("files", [])]
            return {"data": {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}}
        if operation != "UpsertBucket":
            return {"errors": [{"message": f"{operation} is not known here"}]}
        bucket = {
            "id": "bucket",
            "name": variables.get("name") or "run",
            "displayName": variables.get("displayName") or "run",
            "config": "{}",
            "historyLineCount": 0,
            "project": {"name": variables.get("project") or "project", "entity": {"name": "tester"}},
        }
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
