"""As much of W&B's server as a run needs: a run is made or gone on with, rows and alerts come in."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StoredRun:
    """Rows by the line at which the client puts them, as W&B keeps them: what it repeats replaces what was there."""

    def __init__(self) -> None:
        self.lines: dict[int, dict[str, Any]] = {}
        self.summary = "{}"

    def take(self, files: dict[str, Any]) -> None:
        history = files.get("wandb-history.jsonl", {})
        for place, line in enumerate(history.get("content", []), history.get("offset", 0)):
            self.lines[place] = json.loads(line)
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary = line

    def rows(self) -> list[dict[str, Any]]:
        return [self.lines[place] for place in sorted(self.lines)]

    def resumed(self) -> dict[str, Any]:
        """What a client asks for that goes on with the run."""
        tail = [json.dumps(row) for row in self.rows()[-1:]]
        return {
            "name": "run",
            "displayName": "run",
            "summaryMetrics": self.summary,
            "logLineCount": 0,
            "historyLineCount": len(self.lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": "{}",
            "notes": "",
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }


class WandbBackend:
    """Listens on loopback.

    Attributes:
        operations: names of the GraphQL operations, in the order in which they came.
        alerts: variables of each alert.
        runs: name to what the server holds of a run.
        fail: answer everything with this HTTP status, if set.
    """

    def __init__(self) -> None:
        self.operations: list[str] = []
        self.alerts: list[dict[str, Any]] = []
        self.runs: dict[str, StoredRun] = {}
        self.fail: int | None = None
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
                if backend.fail is not None:
                    return self._answer({}, backend.fail)
                if self.path.endswith("/file_stream"):
                    backend.run(self.path.split("/")[-2]).take(body.get("files", {}))
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

    @property
    def rows(self) -> list[dict[str, Any]]:
        """History rows of all runs, in order."""
        return [row for run in self.runs.values() for row in run.rows()]

    def run(self, name: str) -> StoredRun:
        return self.runs.setdefault(name, StoredRun())

    def graphql(self, body: dict[str, Any]) -> dict[str, Any]:
        query, variables = body.get("query", "").replace("#graphql", ""), body.get("variables") or {}
        operation = [*query.split("(")[0].split("{")[0].split(), "unnamed"][1]
        self.operations.append(operation)
        if operation == "Viewer":
            viewer = {"id": "1", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        if operation == "GetDefaultEntity":
            return {"data": {"viewer": {"id": "1", "entity": "tester"}}}
        if operation == "Runs":
            return {"data": {"project": self._project() if variables["project"] == "p" else None}}
        if operation == "RunResumeStatus":
            known = self.runs.get(variables["name"])
            bucket = None if known is None else known.resumed()
            entity = {"id": "1", "name": "tester"}
            return {"data": {"model": {"id": "1", "name": "p", "entity": entity, "bucket": bucket}}}
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
            "historyLineCount": len(self.run(variables.get("name") or "run").lines),
            "project": {"name": variables.get("project") or "project", "entity": {"name": "tester"}},
        }
        return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}

    def _project(self) -> dict[str, Any]:
        """The runs, the latest first, as the public client lists them."""
        nodes = [{"id": name, "name": name, "projectId": "1", "state": "finished", "tags": []} for name in self.runs]
        edges = [{"node": node, "cursor": node["id"]} for node in reversed(nodes)]
        page = {"endCursor": None, "hasNextPage": False}
        runs = {"edges": edges, "pageInfo": page}
        return {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": runs}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
