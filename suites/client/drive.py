#!/usr/bin/env python3
"""Drives both example clients: drive.py PROGRAM. Prints one line a check; exits 1 where one failed."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

import suite
from suite import ROOT, finish, request, serving

CLIENTS = {"python": [sys.executable, str(ROOT / "client/rerank.py")], "shell": ["bash", str(ROOT / "client/rerank.sh")]}
# A machine that is busy with other work may take long, and is not refused what it would take too long for.
PATIENCE = 600
KEY = 'a "key" with \\signs'
QUERY = "how do I reset my \"password\", $USER?"
# What shells and JSON each give a meaning to, and what looks like an option.
DOCUMENTS = ["-n", "it's $HOME `id` \\n \"x\" \\", "To reset your password, follow the link in the mail.", "--query", "ünï 漢字 😀", "offices"]


def check(name, passed, detail):
    """The detail is a whole command: it is of use only where the check fails."""
    suite.check(name, passed, "" if passed else detail)


@contextlib.contextmanager
def gateway(port, refusal, times):
    """A server in front of the program's that refuses as often as it is told, and passes the rest on."""
    arrived = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            arrived.append(time.monotonic())
            status, headers, answer = refusal
            if len(arrived) > times:
                status, answer = request(port, "POST", self.path, body, {"content-type": "application/json"}, PATIENCE)
                headers = {}
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], arrived
    finally:
        server.shutdown()
        server.server_close()


def run(client, port, query, documents, key=None, stdin=None, options=()):
    environment = {"PATH": os.environ["PATH"], "RERANKER_URL": f"http://127.0.0.1:{port}/", "PYTHONIOENCODING": "utf-8", "LC_ALL": "C.UTF-8"}
    if key is not None:
        environment["RERANKER_API_KEY"] = key
    texts = [f"--query={query}", *options, "--", *documents] if client == "python" else [query, *documents]
    return subprocess.run(CLIENTS[client] + texts, env=environment, input=stdin or "", capture_output=True, encoding="utf-8", timeout=PATIENCE)


def test_client(url, key=None, arguments=()):
    environment = {"PATH": os.environ["PATH"], "RERANKER_URL": url, **({"RERANKER_API_KEY": key} if key else {})}
    return subprocess.run([sys.executable, str(ROOT / "client/test_client.py"), *arguments], env=environment, capture_output=True, encoding="utf-8", timeout=PATIENCE)


def ranked_by_server(port, query, documents):
    body = json.dumps({"pairs": [{"query": query, "passage": document} for document in documents]}).encode()
    _, answer = request(port, "POST", "/rerank/batch", body, {"content-type": "application/json"}, PATIENCE)
    results = json.loads(answer)["results"]
    return [(result["score"], documents[result["index"]]) for result in sorted(results, key=lambda r: (-r["logit"], r["index"]))]


def ranking(client, printed):
    """Scores and documents as a client printed them."""
    if client == "shell":
        return [(float(score), text) for score, text in (line.split("\t") for line in printed.splitlines())]
    lines = [line.split(None, 3) for line in printed.splitlines()[1:]]
    return [(float(score), text) for score, _, _, text in lines]


def same(got, wanted):
    return [text for _, text in got] == [text for _, text in wanted] and all(abs(a - b) <= 5.1e-5 for (a, _), (b, _) in zip(got, wanted))


def main():
    path, patient = sys.argv[1], {"REQUEST_TIMEOUT_S": str(PATIENCE * 10)}
    with serving(path, **patient) as server:
        port = server.port
        wanted = ranked_by_server(port, QUERY, DOCUMENTS)
        for client in CLIENTS:
            done = run(client, port, QUERY, DOCUMENTS)
            check(f"{client}: ranks its arguments as the server does", done.returncode == 0 and same(ranking(client, done.stdout), wanted), done)

            # More than a command line has room for, with the ends of lines that Windows has, and empty lines.
            many = DOCUMENTS + [f"document {number} of many, with words about offices" for number in range(700)]
            wanted_many = ranked_by_server(port, QUERY * 10, many)
            done = run(client, port, QUERY * 10, [], stdin="\r\n\n".join(many) + "\n")
            check(f"{client}: ranks standard input", done.returncode == 0 and same(ranking(client, done.stdout), wanted_many), done.stderr)

            done = run(client, port, "", ["x"])
            check(f"{client}: shows the server's error", done.returncode == 1 and "pairs[0].query is empty" in done.stderr and not done.stdout, done)

            done = run(client, 1, QUERY, ["x"])
            check(f"{client}: says that nobody answers", done.returncode == 1 and "127.0.0.1:1/" in done.stderr and "Traceback" not in done.stderr, done)

            busy = (429, {"retry-after": "1"}, b'{"error":{"code":"busy","message":"the queue is full"}}')
            with gateway(port, busy, times=1) as (front, arrived):
                done = run(client, front, QUERY, DOCUMENTS)
                waited = len(arrived) == 2 and 0.9 < arrived[1] - arrived[0] < 5
                check(f"{client}: comes back when a busy server says", waited and same(ranking(client, done.stdout), wanted), done)
            wrong = (422, {}, b'{"error":{"code":"no_pairs","message":"pairs is empty"}}')
            with gateway(port, wrong, times=1) as (front, arrived):
                done = run(client, front, QUERY, DOCUMENTS)
                check(f"{client}: does not repeat what is wrong", len(arrived) == 1 and done.returncode == 1 and "pairs is empty" in done.stderr, done)
            with gateway(port, (200, {}, b"<html>hello</html>"), times=1) as (front, _):
                done = run(client, front, QUERY, DOCUMENTS)
                check(f"{client}: knows an answer that is none", done.returncode == 1 and "not as a reranker does" in done.stderr, done)

        for url in (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}/"):
            done = test_client(url)
            check(f"test_client: {url.split(':')[0]}", done.returncode == 0 and [line.split()[0] for line in done.stdout.splitlines()] == ["health", "pair", "batch", "ok"], done)
        done = test_client("http://elsewhere.invalid", arguments=[f"http://127.0.0.1:{port}"])
        check("test_client: an address by its argument", done.stdout.endswith("ok\n"), done)
        done = test_client("127.0.0.1:1")
        check("test_client: says that nobody answers", done.returncode == 1 and "127.0.0.1:1/health" in done.stderr and "Traceback" not in done.stderr, done)
        environment_url = f"127.0.0.1:{port}"
        done = subprocess.run(CLIENTS["python"] + ["--url", environment_url, "-q", QUERY, *DOCUMENTS[4:]], capture_output=True, encoding="utf-8", timeout=PATIENCE)
        check("python: an address without a scheme", done.returncode == 0, done)
        done = subprocess.run(CLIENTS["python"] + ["-q", QUERY, "--file", "/no/such/file"], capture_output=True, encoding="utf-8", timeout=PATIENCE)
        check("python: names a file that is not there", done.returncode == 1 and done.stderr == "rerank: /no/such/file: No such file or directory\n", done)

        done = run("python", port, QUERY, DOCUMENTS, options=["--json", "--top=2", "--raw", "--max-length=8"])
        best = json.loads(done.stdout or "[]")
        check("python: prints JSON, raw scores, and the best only", len(best) == 2 and all(r["score"] == r["logit"] and r["tokens"] <= 8 for r in best), done)
        with gateway(port, (503, {"retry-after": "0"}, b"busy"), times=99) as (front, arrived):
            done = run("python", front, QUERY, DOCUMENTS)
            check("python: gives up in the end", len(arrived) == 4 and done.returncode == 1 and "503" in done.stderr, done)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            done = run("python", silent.getsockname()[1], QUERY, DOCUMENTS, options=["--timeout=0.3"])
            check("python: does not wait for ever", done.returncode == 1 and "no answer within 0.3 s" in done.stderr, done)

    with serving(path, API_KEYS=f"another,{KEY}", **patient) as server:
        port = server.port
        for client in CLIENTS:
            done = run(client, port, QUERY, DOCUMENTS, key=KEY)
            check(f"{client}: sends its key", done.returncode == 0 and same(ranking(client, done.stdout), wanted), done)
            done = test_client(f"127.0.0.1:{port}", KEY)
            check("test_client: sends its key", done.stdout.endswith("ok\n"), done)
            for key in (None, "wrong"):
                done = run(client, port, QUERY, DOCUMENTS, key=key)
                done_too = test_client(f"127.0.0.1:{port}", key)
                check(f"test_client: names the variable where the key is {key or 'missing'}", done_too.returncode == 1 and "RERANKER_API_KEY" in done_too.stderr, done_too)
                check(f"{client}: names the variable where the key is {key or 'missing'}", done.returncode == 1 and "RERANKER_API_KEY" in done.stderr, done)
    sys.exit(finish())


main()
