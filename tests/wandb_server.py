"""As much of a W&B server as `wandb` talks to in a run. python tests/wandb_server.py PORT LOG

Each request is a line of JSON in LOG: its path, and its body.
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    if "viewer" in query:
        return {"viewer": {"id": "u", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
    if "upsertBucket" not in query:
        return {}
    project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
    bucket = {
        "id": "b", "name": variables["name"], "displayName": variables["displayName"] or "",
        "config": "{}", "historyLineCount": 0, "project": project,
    }  # fmt: skip
    return {"upsertBucket": {"bucket": bucket, "inserted": True}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            raw = gzip.decompress(raw)
        body = json.loads(raw)
        with open(sys.argv[2], "a") as log:  # noqa: PTH123
            log.write(json.dumps({"path": self.path, "body": body}) + "\n")
        data = answer(body.get("query", ""), body.get("variables") or {})
        reply = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: Any) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
