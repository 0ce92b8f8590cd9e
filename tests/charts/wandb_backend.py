"""As much of W&B's GraphQL server as views and automations need: it remembers them, and counts what was asked of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class WandbBackend:
    """Listens on loopback.

    Attributes:
        operations: names of the GraphQL operations, in the order in which they came.
        runs: summaries of the project's runs.
        views: name to the variables with which it was last saved.
        charts: name to the variables with which a custom chart was defined.
        automations: the inputs from which automations were made.
        channels: Slack channels of the team.
        refuses: operations that are answered with an error.
    """

    def __init__(self) -> None:
        self.operations: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.views: dict[str, dict[str, Any]] = {}
        self.charts: dict[str, dict[str, Any]] = {}
        self.automations: list[dict[str, Any]] = []
        self.channels: list[str] = ["#training"]
        self.refuses: set[str] = set()
        self.project = "project"
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked = self.path.endswith("/graphql")
                data = json.dumps(backend.answer(json.loads(body)) if asked else {}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def count(self, operation: str) -> int:
        return self.operations.count(operation)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        query, variables = body.get("query", ""), body.get("variables") or {}
        operation = query.split("(")[0].split("{")[0].split()[-1]
        self.operations.append(operation)
        if operation in self.refuses:
            return {"errors": [{"message": "permission denied"}]}
        handler = getattr(self, f"_{operation}", None)
        if handler is None:
            return {"errors": [{"message": f"{operation} is not known here"}]}
        answer = handler(variables)
        return {"errors": [{"message": answer}]} if isinstance(answer, str) else {"data": answer}

    def _Viewer(self, _: Any) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}}

    def _ServerFeaturesQuery(self, _: Any) -> dict[str, Any]:
        """What older clients ask before they make an automation; newer ones take it for granted."""
        return {"serverInfo": {"features": [{"name": "AUTOMATION_EVENT_RUN_METRIC", "isEnabled": True}]}}

    def _GetDefaultEntity(self, _: Any) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "tester"}}

    def _Runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables["project"] != self.project:
            return {"project": None}
        nodes = [
            {
                "id": f"id-{number}",
                "name": f"run{number}",
                "displayName": f"run{number}",
                "state": "finished",
                "config": "{}",
                "tags": [],
                "createdAt": "2026-01-01T00:00:00",
                "heartbeatAt": "2026-01-01T00:00:00",
                "systemMetrics": "{}",
                "summaryMetrics": json.dumps(summary),
                "historyLineCount": 1,
                "historyKeys": None,
                "user": {"name": "tester", "username": "tester"},
                "projectId": "1",
                "readOnly": False,
            }
            for number, summary in enumerate(self.runs)
        ]
        edges = [{"node": node, "cursor": node["id"]} for node in nodes]
        page = {"endCursor": None, "hasNextPage": False}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(nodes),
                "readOnly": False,
                "runs": {"edges": edges, "pageInfo": page},
            }
        }

    def _View(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables["name"] != self.project:
            return {"project": None}
        view = self.views.get(variables["viewName"])
        node = None if view is None else {key: view[key] for key in ("id", "displayName", "spec")}
        return {"project": {"allViews": {"edges": [] if node is None else [{"node": node}]}}}

    def _UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        known = next((key for key, view in self.views.items() if view["id"] == variables.get("id")), None)
        self.views[known or name] = variables | {"id": variables.get("id") or f"view-{len(self.views)}"}
        saved = self.views[known or name]
        return {"upsertView": {"view": {"id": saved["id"], "name": known or name}, "inserted": known is None}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A run that is made; its rows are taken and forgotten."""
        project = {"name": variables["project"], "entity": {"name": "tester"}}
        bucket = {"id": "1", "name": variables["name"], "displayName": "run", "config": "{}", "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": True}}

    def _CreateCustomChart(self, variables: dict[str, Any]) -> dict[str, Any] | str:
        name = f"{variables['entity']}/{variables['chartName']}"
        if name in self.charts:
            return f"custom chart {name} already exists"
        self.charts[name] = variables
        return {"createCustomChart": {"chart": {"id": name}}}

    def _GetProject(self, _: Any) -> dict[str, Any]:
        about = {"id": "UHJvamVjdDox", "name": self.project, "entityName": "tester", "internalId": "1"}
        return {"project": about | {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}}

    def _IntegrationsByEntity(self, _: Any) -> dict[str, Any]:
        nodes = [
            {"__typename": "SlackIntegration", "id": f"SW50Z{n}", "teamName": "team", "channelName": channel}
            for n, channel in enumerate(self.channels)
        ]
        page = {"endCursor": None, "hasNextPage": False}
        return {"entity": {"integrations": {"pageInfo": page, "edges": [{"node": node} for node in nodes]}}}

    def _GetEntityAutomationsLegacy(self, _: Any) -> dict[str, Any]:
        node = {"__typename": "Project", "triggers": [self._trigger(made) for made in self.automations]}
        page = {"endCursor": None, "hasNextPage": False}
        return {"scope": {"projects": {"pageInfo": page, "edges": [{"node": node}]}}}

    def _CreateAutomation(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.automations.append(variables["input"])
        return {"result": {"trigger": self._trigger(variables["input"])}}

    def _trigger(self, made: dict[str, Any]) -> dict[str, Any]:
        action = made["triggeredActionConfig"]["notificationActionInput"]
        slack = {"__typename": "SlackIntegration", "id": action["integrationID"], "teamName": "t", "channelName": "#c"}
        return {
            "__typename": "Trigger",
            "id": f"VHJpZ2dlc{self.automations.index(made)}",
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "name": made["name"],
            "description": made.get("description"),
            "enabled": True,
            "scope": {"__typename": "Project", "id": "UHJvamVjdDox", "name": self.project},
            "event": {
                "__typename": "FilterEventTriggeringCondition",
                "eventType": made["triggeringEventType"],
                "filter": made["eventFilter"],
            },
            "action": {
                "__typename": "NotificationTriggeredAction",
                "integration": slack,
                "title": action["title"],
                "message": action["message"],
                "severity": action["severity"],
            },
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def wandb_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbBackend]:
    """A W&B server on loopback, at which the public API points."""
    wandb = pytest.importorskip("wandb")
    server = WandbBackend()
    wandb.teardown()
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    yield server
    wandb.teardown()
    server.close()
