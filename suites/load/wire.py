"""HTTP/1.1 over one connection, close enough to the socket to break off in mid-request and to see an answer too many."""

import asyncio
import dataclasses
import json

# Seconds that an answer may take: what the server itself gives a request (REQUEST_TIMEOUT_S), as large ones wait behind hundreds of small ones.
PATIENCE = 300


class Lost(Exception):
    """A connection that ended, or gave nothing that is HTTP, where an answer was due."""


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


def head(method, path, headers):
    lines = [f"{method} {path} HTTP/1.1", "host: load", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def message(method, path, headers, body):
    """A whole request. A GET without a body has no length to tell."""
    if body or method != "GET":
        headers = {"content-length": len(body), **headers}
    return head(method, path, headers) + body


class Connection:
    """Keeps alive for as long as the server does, and connects anew then."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None

    async def open(self):
        # What the server has closed on purpose is closed here by `receive`; anything else must be there still.
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    async def send(self, data):
        await self.open()
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self):
        """The next answer. Where the server says that it closes, so does this."""
        try:
            return await asyncio.wait_for(self._receive(), PATIENCE)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError) as error:
            self.close()
            raise Lost(f"no answer: {error!r}") from error

    async def _receive(self):
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()[:-1]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while length := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(length)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            body = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(first.split(" ")[1]), headers, body)

    async def ask(self, method, path, headers, body=b""):
        await self.send(message(method, path, headers, body))
        return await self.receive()

    async def stray(self):
        """Bytes that nobody asked for. Gives what came within a moment."""
        if self.writer is None:
            return b""
        try:
            return await asyncio.wait_for(self.reader.read(1000), 0.2)
        except (asyncio.TimeoutError, OSError):
            return b""

    def close(self):
        """At once, and without a farewell where something is still on its way."""
        if self.writer is not None:
            self.writer.transport.abort()
            self.reader = self.writer = None
