"""One instance of a function, as Lambda runs it: the program under a runtime API, started at its first call, given one event at a time."""

import http.server
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
import uuid

RUNTIME, EXTENSION = "/2018-06-01/runtime", "/2020-01-01/extension"


class Instance:
    def __init__(self, command, variables, timeout_s, snapshots):
        self.events, self.answers, self.asks = queue.Queue(), queue.Queue(), queue.Queue()
        self.timeout_s, self.lock, self.said = timeout_s, threading.Lock(), tempfile.TemporaryFile()
        api = self.serve()
        began = time.monotonic()
        environment = {"PATH": os.environ["PATH"], "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}", **variables}
        environment["AWS_LAMBDA_INITIALIZATION_TYPE"] = "snap-start" if snapshots else "on-demand"
        self.process = subprocess.Popen(command, env=environment, stdout=self.said, stderr=self.said)
        threading.Thread(target=lambda: (self.process.wait(), self.asks.put("end")), daemon=True).start()
        self.start = {}
        if self.asks.get() == "restore":
            # The snapshot was taken when the version was published; what a call waits for is the rest.
            began = time.monotonic()
            name = "restoreDurationMs"
            self.asks.get()
        else:
            name = "initDurationMs"
        self.start[name] = 1000 * (time.monotonic() - began)

    def serve(self):
        instance = self

        class Api(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status, body=b"{}", **headers):
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                if self.path.startswith(EXTENSION):
                    # The program asks for no events of its life.
                    return threading.Event().wait()
                if self.path == f"{RUNTIME}/restore/next":
                    instance.asks.put("restore")
                    return self.answer(200)
                instance.asks.put("next")
                event = instance.events.get()
                deadline = str(int(1000 * (time.time() + instance.timeout_s)))
                self.answer(200, event, lambda_runtime_aws_request_id=str(uuid.uuid4()), lambda_runtime_deadline_ms=deadline)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.path.startswith(EXTENSION):
                    return self.answer(200, lambda_extension_identifier=str(uuid.uuid4()))
                instance.answers.put((self.path.rpartition("/")[2], body))
                self.answer(202)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def call(self, event):
        """The answer, whether the function failed, and the end of its log with the platform's report."""
        with self.lock:
            began = time.monotonic()
            failed = self.process.poll() is not None
            if failed:
                answer = json.dumps({"errorType": "Runtime.ExitError", "errorMessage": f"exit status {self.process.returncode}"}).encode()
            else:
                self.events.put(event)
                kind, answer = self.answers.get(timeout=self.timeout_s)
                failed = kind == "error"
            metrics = {"durationMs": 1000 * (time.monotonic() - began), **self.start}
            self.start = {}
        self.said.seek(0)
        report = {"type": "platform.report", "record": {"status": "error" if failed else "success", "metrics": metrics}}
        log = self.said.read().decode(errors="replace") + json.dumps(report) + "\n"
        return answer, failed, log[-4096:]
