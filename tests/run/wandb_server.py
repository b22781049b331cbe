"""As much of a W&B server as `wandb` talks to in a run. python tests/run/wandb_server.py LOG

It prints its port. Each request is a line of JSON in LOG: its path, and its body. Like W&B's own
server, it tells how many rows of history a run has when it is opened again.
"""

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HISTORY = "wandb-history.jsonl"
rows: list[str] = []


@contextmanager
def wandb_server(log: Path) -> Iterator[tuple[str, int]]:
    """Address and process number of a server that writes down what it is sent."""
    log.touch()
    with subprocess.Popen([sys.executable, __file__, str(log)], stdout=subprocess.PIPE) as started:
        assert started.stdout
        port = int(started.stdout.readline())
        yield f"http://127.0.0.1:{port}", started.pid
        started.kill()


def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
    if "viewer" in query:
        return {"viewer": {"id": "u", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
    if "createRunFiles" in query:
        address = f"http://127.0.0.1:{server.server_port}/"
        files = [{"name": name, "uploadUrl": address + name} for name in variables["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
    if "upsertBucket" not in query:
        return {}
    project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "me"}}
    bucket = {
        "id": "b", "name": variables["name"], "displayName": variables["displayName"] or "",
        "config": "{}", "historyLineCount": len(rows), "project": project,
    }  # fmt: skip
    return {"upsertBucket": {"bucket": bucket, "inserted": True}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            raw = gzip.decompress(raw)
        body = json.loads(raw)
        with open(sys.argv[1], "a") as log:  # noqa: PTH123
            log.write(json.dumps({"path": self.path, "body": body}) + "\n")
        sent = (body.get("files") or {}).get(HISTORY)
        if sent:
            rows[sent["offset"] :] = sent["content"]
        self.reply({"data": answer(body.get("query", ""), body.get("variables") or {})})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply({})

    def reply(self, content: dict[str, Any]) -> None:
        reply = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)  # noqa: T201
    server.serve_forever()
