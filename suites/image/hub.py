"""A hub on loopback that has the bundled model under another name and gives it only for a key, in the layout of Hugging Face's."""

import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading

NAME = "acme/demo"
COMMIT = "5ca1ab1e" * 5
TOKEN = "hf_only-the-builder-may-know"
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "models/demo"
FILES = {name: (FOLDER / name).read_bytes() for name in ("tokenizer.json", "model.safetensors")}
# Without what the model says of itself, its name and revision are the hub's.
CONFIG = json.loads((FOLDER / "config.json").read_text())
FILES["config.json"] = json.dumps({key: value for key, value in CONFIG.items() if key != "reranker"}).encode()


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.send(401, b"")
        path = self.path.partition("?")[0]
        if path == f"/api/models/{NAME}/revision/{COMMIT}":
            return self.send(200, json.dumps({"sha": COMMIT}).encode())
        if path == f"/api/models/{NAME}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40,
                 "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}}
                for name, content in FILES.items()
            ]
            return self.send(200, json.dumps(entries).encode())
        content = FILES.get(path.removeprefix(f"/{NAME}/resolve/{COMMIT}/"))
        if content is None:
            return self.send(404, b"")
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
            return self.send(206, content[start:end], {"content-range": f"bytes {start}-{end - 1}/{len(content)}"})
        return self.send(200, content)

    def send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving():
    """The hub's address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
