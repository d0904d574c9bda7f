"""A stand-in for the Hugging Face hub on this machine: what its library asks for when a model is
uploaded and loaded."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_ada"
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Files of each model by their path: `hub.models["ada/birds"]["config.json"]`.

    Attributes:
        private: for each model, whether it was created as a private one.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer_json(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.answer_json(200, {"errors": [], "warnings": []})
        if asked := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            return self.answer_json(200, {"files": self.upload_modes(json.loads(body))})
        if asked := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            return self.commit(asked[1], body)
        return self.answer_json(404, {"error": f"{self.path} is not known here"})

    def create(self, wanted):
        name = f"{wanted.get('organization')}/{wanted['name']}"
        if name in self.server.models:
            return self.answer_json(409, {"error": "it exists", "url": self.url(name)})
        self.server.models[name] = {}
        self.server.private[name] = wanted.get("visibility") == "private"
        return self.answer_json(200, {"url": self.url(name), "name": name})

    def upload_modes(self, wanted):
        common = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
        return [{"path": file["path"], **common} for file in wanted["files"]]

    def commit(self, name, body):
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.server.models[name][entry["value"]["path"]] = content
        answer = {"commitUrl": f"{self.url(name)}/commit/{COMMIT}", "commitOid": COMMIT}
        return self.answer_json(200, {"success": True, **answer})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        asked = re.fullmatch(r"/(.+/.+)/resolve/main/(.+)", self.path)
        content = asked and self.server.models.get(asked[1], {}).get(asked[2])
        if content is None:
            return self.answer_json(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }
        return self.answer(200, content, headers)

    def url(self, name):
        return f"{self.server.address}/{name}"

    def answer_json(self, status, values, headers=None):
        self.answer(status, json.dumps(values).encode(), headers or {})

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        """Nothing: what is asked for shows in the answers."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
