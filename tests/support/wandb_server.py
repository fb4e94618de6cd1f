"""A server on this machine that takes in what W&B's own client sends: as much of W&B as it asks for.

It keeps a run's history as W&B does: lines from an offset on replace those that are there.
"""

import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "sesame" + "0123456789abcdef" * 2 + "ab"
"""As long as W&B wants them, and easy to find where it must not be."""


class WandbServer(ThreadingHTTPServer):
    """What it was told, by run id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.history: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.config: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        self.alerts: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        """run id/name -> content."""
        self.exit_codes: defaultdict[str, list[int]] = defaultdict(list)

    @property
    def environment(self) -> dict[str, str]:
        """By which W&B's client finds it."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}", "WANDB_API_KEY": API_KEY}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """Of a GraphQL request; None of what it does not know, such as artifacts."""
        if "mutation UpsertBucket" in query:
            self.config[variables["name"]] |= json.loads(variables["config"] or "{}")
            return {"upsertBucket": {"bucket": self._bucket(variables["name"]), "inserted": True}}
        if "query RunResumeStatus" in query:
            known = variables["name"] in self.config
            return {"model": {**PROJECT, "bucket": self._bucket(variables["name"]) if known else None}}
        if "mutation CreateRunFiles" in query:
            url = f"{self.environment['WANDB_BASE_URL']}/upload/{variables['run']}/"
            files = [{"name": name, "uploadUrl": url + name} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if "NotifyScriptableRunAlert" in query:
            self.alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if "viewer" not in query.lower():
            return None
        return {"viewer": {"id": "v", "entity": "team", "username": "u", "flags": "{}", "teams": {"edges": []}}}

    def take(self, run_id: str, sent: dict[str, Any]) -> None:
        """A part of a run's files."""
        part = sent.get("files", {}).get("wandb-history.jsonl")
        if part:
            self.history[run_id][part["offset"] :] = [json.loads(line) for line in part["content"]]
        if sent.get("complete"):
            self.exit_codes[run_id].append(sent["exitcode"])

    def _bucket(self, run_id: str) -> dict[str, Any]:
        tail = [json.dumps(row) for row in self.history[run_id][-1:]]
        counts = {"historyLineCount": len(self.history[run_id]), "logLineCount": 0, "eventsLineCount": 0}
        tails = {"historyTail": json.dumps(tail), "eventsTail": "[]", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}'}
        return {"id": run_id, "name": run_id, "project": PROJECT, "config": "{}", "tags": [], **counts, **tails}


PROJECT = {"id": "p", "name": "project", "entity": {"id": "e", "name": "team"}}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        told = self.server
        assert isinstance(told, WandbServer)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            request = json.loads(content)
            data = told.answer(request["query"], request.get("variables") or {})
            answer = {"errors": [{"message": "not known here"}]} if data is None else {"data": data}
        elif self.path.endswith("/file_stream"):
            told.take(self.path.split("/")[-2], json.loads(content))
        elif self.path.startswith("/upload/"):
            told.files[self.path.removeprefix("/upload/")] = content
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests look at what it was told."""


@contextmanager
def serving() -> Iterator[WandbServer]:
    """A server that listens until the end."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
