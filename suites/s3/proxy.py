"""A proxy on loopback in front of an S3 server, which passes everything on as it is, or breaks it as it is told."""

import http.client
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DENIED = ("AccessDenied", "User: arn:aws:sts::1:assumed-role/reranker is not authorized to perform: s3:GetObject")


@dataclass
class Seen:
    method: str
    path: str
    range: str | None
    query: str = ""
    # Of the signature's credentials; nothing where there is none.
    key: str | None = None
    # How many requests with a range came before it.
    number: int = 0


@dataclass
class Fault:
    """What is done to one answer. Nothing: it is passed on."""

    status: int | None = None
    error: tuple[str, str] = ("", "")
    # Sends so many bytes of the body, and closes the connection.
    drop_after: int | None = None
    # Says that the body is so many bytes shorter, and sends it so.
    shorter: int = 0
    # Turns a bit of this byte of the body.
    flip: int | None = None
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    bytes_per_second: float | None = None
    # Seconds without a word before the answer.
    silent: float = 0


class Proxy:
    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.plan = lambda seen: None
        self.seen: list[Seen] = []
        self.bytes = 0
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.pass_on(self)

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, *_) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_) -> None:
                """Clients are killed here, and connections dropped."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self, plan=lambda seen: None) -> None:
        with self.lock:
            self.plan, self.seen, self.bytes = plan, [], 0

    def ranges(self) -> list[str]:
        return [seen.range for seen in self.seen if seen.range]

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        with self.lock:
            number = len(self.ranges())
            signature = re.search(r"Credential=([^/]+)/", request.headers.get("authorization", ""))
            seen = Seen(request.command, path, request.headers.get("range"), query, signature and signature[1], number)
            self.seen.append(seen)
        fault = self.plan(seen) or Fault()
        time.sleep(fault.silent)
        if fault.status:
            code, message = fault.error
            text = f"<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            request.send_response(fault.status)
            for name, value in fault.headers.items():
                request.send_header(name, value)
            request.send_header("content-type", "application/xml")
            request.send_header("content-length", str(len(text)))
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(text)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream)
        upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            upstream.putheader(name, value)
        length = int(request.headers.get("content-length") or 0)
        upstream.endheaders(request.rfile.read(length) if length else None)
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() == "etag" and fault.etag:
                value = fault.etag
            if name.lower() == "content-length":
                value = str(int(value) - fault.shorter)
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                request.send_header(name, fault.headers.get(name.lower(), value))
        request.end_headers()
        if fault.flip is not None:
            body = bytearray(body)
            body[fault.flip] ^= 1
        if fault.shorter:
            body = body[: -fault.shorter]
        if fault.drop_after is not None:
            body = body[: fault.drop_after]
        for start in range(0, len(body), 1 << 16):
            piece = body[start : start + (1 << 16)]
            request.wfile.write(piece)
            with self.lock:
                self.bytes += len(piece)
            if fault.bytes_per_second:
                time.sleep(len(piece) / fault.bytes_per_second)
        if fault.drop_after is not None:
            request.wfile.flush()
            request.close_connection = True
