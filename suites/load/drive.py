#!/usr/bin/env python3
"""Puts a load on the program and judges every answer: drive.py PROGRAM SECONDS.

The pairs are asked alone first. Then 32 connections send a shuffled deck of requests over and over: all dialects, small and large,
mistakes of every kind, deadlines that cannot be kept, clients that break off; and from time to time a crowd comes that is larger than
the queue. Checked is that

- every answer is one that was meant for its request, and has its id; none is lost, none comes twice;
- every score is the one that its pair had alone, to the last digit;
- only while a crowd is there anyone is told 429, with a time to come back at which it works;
- the memory of the process does not grow;
- /metrics has counted what was sent;
- SIGTERM ends it well, answering what was accepted.

Prints one line a check and a table of the kinds; exits 1 where a check failed. Needs only the standard library.
"""

import asyncio
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random as randoms
import re
import signal
import statistics
import sys
import tempfile
import time

import dialects
import texts
import wire
from dialects import Wish
from suite import DEMO, ROOT, check, finish, free_port, process

CONNECTIONS = 32
# Room for all connections and for jobs whose clients have just gone: nobody is refused but in a crowd.
MAX_QUEUE = CONNECTIONS + 16
CROWD = 64
MAX_PAIRS = 100
MAX_TEXT_CHARS = 20_000
MAX_BODY_BYTES = 1 << 20
KEY = "a-key-of-the-load"
# At most that much more memory at the end than after the warm-up.
GROWTH_BYTES = 16 << 20
WARM_UP = 15
# Wrong answers to show in full; the others are counted.
SHOWN = 10

@dataclasses.dataclass
class Pool:
    """The texts of the load, and what each pair scores alone: (score, logit) by query, document and way of reading it."""

    queries: list
    short: list
    long: list
    alone: dict = dataclasses.field(default_factory=dict)

    # As native bodies ask for it.
    WAYS = {"cut": {}, "v1": {"max_chunks_per_doc": 10}, "v2": {"max_chunks_per_doc": 1000, "max_tokens_per_doc": 4096}}

    @classmethod
    def drawn(cls, random):
        return cls(texts.queries(random), texts.short(random), texts.long(random))

    def of(self, query, document, way):
        # What fits is read in one piece by all.
        return self.alone[query, document, way if document in self.long else "cut"]


@dataclasses.dataclass
class Scored:
    """A request whose answer is known."""

    dialect: dialects.Dialect
    path: str
    headers: dict
    body: bytes
    documents: list
    wish: Wish
    # (index, score) as they must come.
    expected: list
    made: float = dataclasses.field(default_factory=time.monotonic)

    def judge(self, answer):
        if answer.status != 200:
            return "not answered 200"
        results = self.dialect.results(answer.json())
        if [(index, score) for index, score, _ in results] != self.expected:
            return f"scores differ: expected {self.expected}"
        returned = self.wish.returned or self.dialect.always_returns
        for index, _, document in results:
            if returned and document != self.returned(index):
                return f"document {index} is {document!r}"
            if not returned and document is not None:
                return f"document {index} came unasked"
        return None

    def returned(self, index):
        text = self.documents[index]
        if self.dialect.name == "pinecone":
            return {"id": str(index), "text": text}
        if self.wish.as_objects:
            return {"text": text, "n": index}
        return text if self.dialect.strings else {"text": text}


class Load:
    def __init__(self, port, pid, seconds, seed, answered):
        self.port, self.pid, self.seconds = port, pid, seconds
        self.random = randoms.Random(seed)
        self.pool = Pool.drawn(self.random)
        self.sent = 0
        self.wrong = []
        # Milliseconds and statuses by kind.
        self.took = collections.defaultdict(list)
        self.statuses = collections.defaultdict(collections.Counter)
        # What /metrics must have counted: answers by path and status, and what may have been counted because its client had gone.
        self.answered = answered
        self.gone = collections.Counter()
        self.scored_documents = self.gone_documents = 0
        self.resident = []
        # Requests of a crowd that are on their way, and when the last crowd was there.
        self.crowd, self.crowd_until = 0, 0.0
        self.came_back = 0

    # Sending

    def identified(self, headers=None, key=True):
        self.sent += 1
        headers = {"x-request-id": f"load-{self.sent}", **(headers or {})}
        styles = {
            "authorization": f"Bearer {KEY}", "Authorization": KEY, "x-api-key": KEY, "Api-Key": KEY, "Ocp-Apim-Subscription-Key": KEY,
        }
        if key:
            style = self.random.choice(list(styles))
            headers[style] = styles[style]
        return headers

    async def ask(self, connection, method, path, headers, body=b""):
        await connection.send(wire.message(method, path, headers, body))
        return await self.receive(connection, path, headers)

    async def receive(self, connection, path, headers):
        answer = await connection.receive()
        self.answered[path, answer.status] += 1
        if answer.headers.get("x-request-id") != headers["x-request-id"]:
            self.complain("ids", answer, f"the answer to {headers['x-request-id']} says {answer.headers.get('x-request-id')}")
        if answer.status == 429:
            if not (answer.headers.get("retry-after", "").isdigit() and int(answer.headers["retry-after"]) >= 1):
                self.complain("429", answer, "no Retry-After")
        return answer

    def complain(self, kind, answer, problem):
        told = f"{kind}: {problem}"
        if answer is not None:
            told += f"; {answer.status} {answer.body[:300]!r}"
        self.wrong.append(told)

    # What is sent

    def scoring(self, dialect, size, wish=None):
        random, pool = self.random, self.pool
        query = random.choice(pool.queries)
        if dialect.name == "native":
            documents = [random.choice(pool.long if size == "large" else pool.short)]
        elif size == "large":
            documents = random.choices(pool.short, k=random.randint(20, 39)) + [random.choice(pool.long)]
            random.shuffle(documents)
        else:
            documents = random.choices(pool.short, k=random.randint(1, 4))
        if wish is None:
            wish = Wish(
                top=random.choice([None, None, 1, 3, 1000]),
                raw=random.random() < 0.3,
                returned=random.random() < 0.3,
                as_objects=random.random() < 0.3,
                least=random.choice([None, None, 0.5]),
                spans=random.random() < 0.2,
            )
            wish = Wish(**{word: value for word, value in vars(wish).items() if word in dialect.words})
            if wish.raw:
                wish.least = None
        path, _ = random.choice(dialect.paths)
        place = 1 if wish.raw or dialect.always_raw else 0
        known = [pool.of(query, document, dialect.way) for document in documents]
        expected = [(index, pair[place]) for index, pair in enumerate(known)]
        if dialect.ordered:
            expected.sort(key=lambda item: (-known[item[0]][1], item[0]))
        if wish.least is not None:
            expected = [item for item in expected if item[1] >= wish.least]
        expected = expected[: wish.top]
        body = json.dumps(dialect.body(query, documents, wish), ensure_ascii=random.random() < 0.5).encode()
        headers = self.identified({"content-type": "application/json", **dialect.headers})
        return Scored(dialect, path, headers, body, documents, wish, expected)

    def any_dialect(self):
        return self.random.choice(dialects.ALL)

    # The cards: each plays one request, or a few, and returns nothing; what is wrong is told to `complain`.

    async def played(self, kind, connection, card):
        begun = time.monotonic()
        answer = None
        try:
            answer, problem = await card(connection)
        except wire.Lost as lost:
            problem = str(lost)
        except (ValueError, KeyError, TypeError, IndexError) as odd:
            connection.close()
            problem = f"cannot be read: {odd!r}"
        self.took[kind].append((time.monotonic() - begun) * 1e3)
        if answer is not None:
            self.statuses[kind][answer.status] += 1
        if problem is not None:
            self.complain(kind, answer, problem)
        return answer

    def card_valid(self, dialect, size):
        async def card(connection):
            request = self.scoring(dialect, size)
            answer = await self.ask(connection, "POST", request.path, request.headers, request.body)
            return answer, self.judged(request, answer)

        return card

    def judged(self, request, answer):
        if answer.status == 200:
            self.scored_documents += len(request.documents)
        elif self.crowded_out(request, answer):
            return None
        return request.judge(answer)

    def crowded_out(self, request, answer):
        return answer.status == 429 and (self.crowd > 0 or self.crowd_until >= request.made)

    def card_refused(self, status, damage, early=False):
        """A valid request that `damage` has made (path, headers, body) of that must be refused, in whose words depends on `early`."""

        async def card(connection):
            dialect = self.any_dialect()
            request = self.scoring(dialect, "small")
            damaged = damage(self, dialect, request)
            if damaged is None:
                # This dialect cannot make the mistake.
                return await card(connection)
            method, path, headers, body = damaged
            answer = await self.ask(connection, method, path, headers, body)
            if answer.status != status:
                return answer, f"expected {status}"
            voice = dict(dialect.paths)[request.path] if early else dialect.name
            if not dialects.BY_NAME[voice].complaint(answer.json()):
                return answer, f"not an error of {voice}"
            return answer, self.refusal_headers(answer)

        return card

    @staticmethod
    def refusal_headers(answer):
        needed = {401: "www-authenticate", 405: "allow", 503: "retry-after"}.get(answer.status)
        return f"no {needed}" if needed and needed not in answer.headers else None

    def card_page(self, path, key, holds):
        async def card(connection):
            answer = await self.ask(connection, "GET", path, self.identified(key=key))
            return answer, None if answer.status == 200 and holds in answer.body else f"expected 200 with {holds!r}"

        return card

    async def card_nowhere(self, connection):
        path = self.random.choice(["/nowhere", "/rerank/", "/v3/rerank", "/cohere/rerank/%00", "/v1/models"])
        answer = await self.ask(connection, self.random.choice(["GET", "POST"]), path, self.identified())
        self.answered[path, answer.status] -= 1
        self.answered["unmatched", answer.status] += 1
        return answer, None if answer.status == 404 else "expected 404"

    async def card_estimate(self, connection):
        shares = [dialect for dialect in dialects.ALL if "/rerank" in dict(dialect.paths)]
        request = self.scoring(self.random.choice(shares), "large")
        answer = await self.ask(connection, "POST", "/estimate", request.headers, request.body)
        told = answer.status == 200 and answer.json()["pairs"] == len(request.documents) and answer.json()["tokens"] > 0
        return answer, None if told else "expected 200 with as many pairs"

    async def card_too_large(self, connection):
        """A length that is announced and too large: the answer comes before the body."""
        path, voice = self.random.choice(self.any_dialect().paths)
        headers = self.identified({"content-type": "application/json", "content-length": 2 * MAX_BODY_BYTES})
        await connection.send(wire.head("POST", path, headers))
        return await self.refused_early(connection, path, headers, 413, voice)

    async def card_too_large_in_chunks(self, connection):
        """A body that tells no length and becomes too large."""
        path, voice = self.random.choice(self.any_dialect().paths)
        headers = self.identified({"content-type": "application/json", "transfer-encoding": "chunked"})
        await connection.send(wire.head("POST", path, headers))
        piece = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))
        await connection.send(piece * (MAX_BODY_BYTES >> 16) + b"2\r\n{}\r\n")
        return await self.refused_early(connection, path, headers, 413, voice)

    async def card_stalled(self, connection):
        """A body that stops coming, longer than the client itself would wait."""
        request = self.scoring(self.any_dialect(), "small")
        voice = dict(request.dialect.paths)[request.path]
        headers = {**request.headers, "x-request-timeout-ms": 250, "content-length": len(request.body)}
        await connection.send(wire.head("POST", request.path, headers) + request.body[: len(request.body) // 2])
        return await self.refused_early(connection, request.path, headers, 408, voice)

    async def refused_early(self, connection, path, headers, status, voice):
        answer = await self.receive(connection, path, headers)
        # The rest of the body will not be sent, so this connection is at its end.
        connection.close()
        told = answer.status == status and dialects.BY_NAME[voice].complaint(answer.json())
        return answer, None if told else f"expected {status} in the words of {voice}"

    async def card_hopeless(self, connection):
        """Much work in little time: refused at once, or given up."""
        request = self.scoring(dialects.BY_NAME["native batch"], "large", Wish())
        headers = {**request.headers, "x-request-timeout-ms": self.random.choice([1, 5, 15])}
        answer = await self.ask(connection, "POST", "/rerank/batch", headers, request.body)
        # 408 where not even the body was there in time.
        if answer.status not in (408, 503, 504) and not self.crowded_out(request, answer):
            return answer, "expected 408, 503 or 504"
        return answer, self.refusal_headers(answer)

    async def card_tight(self, connection):
        """Little work in a time that is enough if nobody else is there: scored, or refused."""
        request = self.scoring(self.any_dialect(), "small")
        headers = {**request.headers, "x-request-timeout-ms": self.random.choice([20, 150, 3000])}
        answer = await self.ask(connection, "POST", request.path, headers, request.body)
        if answer.status in (408, 503, 504):
            return answer, self.refusal_headers(answer)
        return answer, self.judged(request, answer)

    async def card_trickle(self, connection):
        """A valid request in pieces."""
        request = self.scoring(self.any_dialect(), "small")
        data = wire.message("POST", request.path, request.headers, request.body)
        for at in range(0, len(data), len(data) // 3 + 1):
            await connection.send(data[at : at + len(data) // 3 + 1])
            await asyncio.sleep(0.01)
        answer = await self.receive(connection, request.path, request.headers)
        return answer, self.judged(request, answer)

    async def card_pipelined(self, connection):
        """Three requests in one breath: three answers in their order."""
        requests = [self.scoring(self.any_dialect(), "small") for _ in range(3)]
        await connection.send(b"".join(wire.message("POST", r.path, r.headers, r.body) for r in requests))
        answer, problems = None, []
        for request in requests:
            answer = await self.receive(connection, request.path, request.headers)
            problems.append(self.judged(request, answer))
        return answer, "; ".join(filter(None, problems)) or None

    def card_gone(self, when):
        """A client that goes: before its body is whole, as soon as it is, or while it is scored."""

        async def card(connection):
            request = self.scoring(self.any_dialect(), self.random.choice(["small", "large"]))
            data = wire.message("POST", request.path, request.headers, request.body)
            await connection.send(data[: len(data) - len(request.body) // 2] if when == "in its body" else data)
            if when == "while it is scored":
                await asyncio.sleep(self.random.uniform(0.005, 0.1))
            connection.close()
            self.gone[request.path] += 1
            self.gone_documents += len(request.documents)
            return None, None

        return card

    def deck(self):
        cards = []
        for dialect in dialects.ALL:
            cards += [(f"{dialect.name}, small", self.card_valid(dialect, "small"))] * 3
            cards += [(f"{dialect.name}, large", self.card_valid(dialect, "large"))]
        for kind, status, damage, early in MISTAKES:
            cards += [(f"{status} {kind}", self.card_refused(status, damage, early))] * 2
        for path, key, holds in PAGES:
            cards.append((f"GET {path}", self.card_page(path, key, holds)))
        for when in ("in its body", "at once", "while it is scored"):
            cards += [(f"gone {when}", self.card_gone(when))] * 2
        return cards + [
            ("404 unknown path", self.card_nowhere),
            ("413 announced", self.card_too_large),
            ("413 in chunks", self.card_too_large_in_chunks),
            ("408 stalled", self.card_stalled),
            ("hopeless deadline", self.card_hopeless),
            ("hopeless deadline", self.card_hopeless),
            *[("tight deadline", self.card_tight)] * 6,
            ("estimate", self.card_estimate),
            ("trickle", self.card_trickle),
            ("pipelined", self.card_pipelined),
        ]

    # The run

    async def ask_alone(self):
        """Every pair by itself, one after the other."""
        connection = wire.Connection(self.port)
        wanted = [(document, "cut") for document in self.pool.short]
        wanted += [(document, way) for document in self.pool.long for way in Pool.WAYS]
        for query in self.pool.queries:
            for document, way in wanted:
                headers = self.identified({"content-type": "application/json"})
                body = json.dumps({"query": query, "passage": document, **Pool.WAYS[way]}).encode()
                answer = await self.ask(connection, "POST", "/rerank", headers, body)
                scored = answer.json()
                self.pool.alone[query, document, way] = scored["score"], scored["logit"]
                self.scored_documents += 1
        connection.close()

    async def worker(self, cards, until):
        connection = wire.Connection(self.port)
        while time.monotonic() < until:
            if not cards:
                cards += self.deck()
                self.random.shuffle(cards)
            kind, card = cards.pop()
            answer = await self.played(kind, connection, card)
            if answer is not None and answer.status == 429:
                await asyncio.sleep(int(answer.headers["retry-after"]) * self.random.uniform(1, 1.5))
        stray = await connection.stray()
        if stray:
            self.complain("stray", None, f"bytes that nobody asked for: {stray[:200]!r}")
        return connection

    async def crowds(self, until):
        period = max(2.5, self.seconds / 8)
        while time.monotonic() + 2 * period < until:
            await asyncio.sleep(period)
            await asyncio.gather(*(self.one_of_a_crowd() for _ in range(CROWD)))

    async def one_of_a_crowd(self):
        """Comes back as long as it is told to."""
        connection = wire.Connection(self.port)
        refused = 0

        async def card(connection):
            nonlocal refused
            request = self.scoring(dialects.BY_NAME["common"], "small", Wish())
            while True:
                self.crowd += 1
                try:
                    answer = await self.ask(connection, "POST", request.path, request.headers, request.body)
                finally:
                    self.crowd -= 1
                    self.crowd_until = time.monotonic()
                if answer.status != 429 or refused == 20:
                    self.came_back += refused > 0
                    return answer, self.judged(request, answer)
                refused += 1
                self.statuses["crowd"][429] += 1
                # Not all at the same moment.
                await asyncio.sleep(int(answer.headers["retry-after"]) * self.random.uniform(1, 1.5))

        await connection.open()
        await self.played("crowd", connection, card)
        connection.close()

    async def watch_memory(self, began):
        while True:
            self.resident.append((time.monotonic() - began, resident_bytes(self.pid)))
            await asyncio.sleep(0.25)

    async def run(self):
        began = time.monotonic()
        until = began + self.seconds
        watch = asyncio.create_task(self.watch_memory(began))
        cards = []
        connections, _ = await asyncio.gather(
            asyncio.gather(*(self.worker(cards, until) for _ in range(CONNECTIONS))), self.crowds(until)
        )
        watch.cancel()
        return connections, time.monotonic() - began

    async def metrics(self):
        connection = wire.Connection(self.port)
        headers = self.identified()
        answer = await connection.ask("GET", "/metrics", headers)
        connection.close()
        # Counted once it is answered, so not in its own numbers.
        found = re.findall(r"^(\w+?)(?:\{(.*)\})? (\S+)$", answer.body.decode(), re.M)
        numbers = [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]
        self.answered["/metrics", answer.status] += 1
        return numbers

    async def settle(self):
        """Until nothing is computed that nobody waits for."""
        for _ in range(200):
            numbers = await self.metrics()
            if not next(value for name, _, value in numbers if name == "reranker_queue_depth"):
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)


def without_key(load, dialect, request):
    headers = {name: value for name, value in request.headers.items() if KEY not in value}
    wrong = load.random.choice([{}, {"authorization": "Bearer wrong"}, {"x-api-key": KEY + "x"}])
    return "POST", request.path, {**headers, **wrong}, request.body


def not_json(load, dialect, request):
    return "POST", request.path, request.headers, request.body[:-1]


def as_text(load, dialect, request):
    return "POST", request.path, {**request.headers, "content-type": "text/plain"}, request.body


def other_method(load, dialect, request):
    return "GET", request.path, request.headers, b""


def rebuilt(query=None, documents=None):
    """The request with another query or other documents."""

    def damage(load, dialect, request):
        texts = request.documents if documents is None else documents
        if dialect.name == "native" and len(texts) != 1:
            return None
        body = dialect.body("a query" if query is None else query, texts, Wish())
        return "POST", request.path, request.headers, json.dumps(body).encode()

    return damage


def no_shape(load, dialect, request):
    if dialect.name == "pinecone" or dict(dialect.paths)[request.path] != "native" or request.path == "/rerank/batch":
        return None
    return "POST", request.path, request.headers, b'{"query": "a query"}'


def odd_timeout(load, dialect, request):
    return "POST", request.path, {**request.headers, "x-request-timeout-ms": load.random.choice(["0", "soon", "-1"])}, request.body


# Kind, status, how it is made, and whether it is refused before the body shows whose it is.
MISTAKES = [
    ("no key or a wrong one", 401, without_key, True),
    ("broken JSON", 400, not_json, True),
    ("not JSON", 415, as_text, True),
    ("other method", 405, other_method, True),
    ("empty query", 422, rebuilt(query=" "), False),
    ("query of a wrong type", 422, rebuilt(query=7), False),
    ("too many documents", 422, rebuilt(documents=["a"] * (MAX_PAIRS + 1)), False),
    ("too long a document", 422, rebuilt(documents=["a" * (MAX_TEXT_CHARS + 1)]), False),
    ("no dialect's body", 422, no_shape, True),
    ("odd timeout", 422, odd_timeout, True),
]
# Path, whether it needs a key, and what it holds.
PAGES = [
    ("/health", False, b'"status":"ok"'),
    ("/ready", False, b"ok"),
    ("/live", False, b"ok"),
    ("/info", True, b"model_id"),
    ("/tei/info", True, b"model_id"),
    ("/metrics", True, b"reranker_requests_total"),
    ("/openapi.json", False, b"openapi"),
    ("/docs", False, b"<html"),
    ("/", False, b"<html"),
]


def resident_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) << 10


def check_answers(load):
    for told in load.wrong[:SHOWN]:
        print(f"      {told}")
    total = sum(load.answered.values())
    detail = f"{len(load.wrong)} wrong" if load.wrong else f"{total} answers, {load.scored_documents} documents scored"
    check("every answer is the one that was meant, with its id and the scores of the pairs alone", not load.wrong, detail)
    known = {path for file in (ROOT / "tests/wire").glob("*.json") for path in json.loads(file.read_text())["paths"]}
    unknown = {path for dialect in dialects.ALL for path, _ in dialect.paths} - {path.split("?")[0] for path in known}
    check("every path of the load is in tests/wire", not unknown, str(sorted(unknown) or ""))
    kinds = {kind for kind, _ in load.deck()}
    least = max(2, load.seconds // 10)
    few = {kind: len(load.took[kind]) for kind in sorted(kinds) if len(load.took[kind]) < least}
    check(f"at least {least} requests of each of {len(kinds)} kinds", not few, str(few or ""))
    crowd = load.statuses["crowd"]
    check(
        "crowds met a full queue, and were served when they came back",
        crowd[429] > 0 and load.came_back > 0 and crowd[200] == len(load.took["crowd"]),
        f"{crowd[429]} × 429 to {load.came_back} clients, {crowd[200]} of {len(load.took['crowd'])} served",
    )
    late = sum((load.statuses[kind] for kind in ("hopeless deadline", "tight deadline")), collections.Counter())
    seen = bool(late[200] and late[503] and late[504])
    check("of deadlines some were kept, some refused as 503, some as 504", seen, ", ".join(f"{n} × {s}" for s, n in sorted(late.items())))


def check_memory(load):
    # Short runs are for trying this script out: they have no time for a warm-up of full length.
    warm = min(WARM_UP, load.seconds / 3)
    after = [(at, resident) for at, resident in load.resident if at >= warm]
    third = (load.seconds - warm) / 3
    early = max(resident for at, resident in after if at < warm + third)
    late = max(resident for at, resident in after if at >= load.seconds - third)
    told = f"{early / 2**20:.1f} MiB from {warm:.0f} s on, {late / 2**20:.1f} MiB at the end, bound {GROWTH_BYTES >> 20} MiB"
    check("the process does not grow", late - early <= GROWTH_BYTES, told)


async def check_metrics(load):
    await load.settle()
    expected, gone = collections.Counter(load.answered), load.gone
    numbers = await load.metrics()
    counted = collections.Counter()
    for name, labels, value in numbers:
        if name == "reranker_requests_total":
            counted[labels["route"], int(labels["status"])] += int(value)
    wrong = []
    extra = collections.Counter()
    for place in sorted(expected.keys() | counted.keys()):
        more = counted[place] - expected[place]
        extra[place[0]] += more
        if more < 0 or (more > 0 and not gone[place[0]]):
            wrong.append(f"{place} sent {expected[place]}, counted {counted[place]}")
    # A client that goes is counted where its answer was ready before that was seen.
    wrong += [f"{path}: {more} too many for {gone[path]} clients that went" for path, more in extra.items() if more > gone[path]]
    seen = sum(gone.values()), sum(extra.values())
    check(
        "/metrics has counted every answer by route and status", not wrong,
        "; ".join(wrong) or f"{sum(expected.values())} answers; of {seen[0]} clients that went {seen[1]} too",
    )
    total = {name: value for name, labels, value in numbers if not labels}
    documents = sum(value for name, labels, value in numbers if name == "reranker_documents_total")
    check(
        "/metrics has counted every document", load.scored_documents <= documents <= load.scored_documents + load.gone_documents,
        f"{documents:.0f} of {load.scored_documents}, and of {load.gone_documents} whose clients went",
    )
    check("nothing panicked", total["reranker_panics_total"] == 0)
    now = resident_bytes(load.pid)
    told = total["process_resident_memory_bytes"]
    check("/metrics tells the resident memory", abs(told - now) < 0.1 * now, f"{told / 2**20:.1f} MiB, the kernel says {now / 2**20:.1f}")


async def check_drain(load, process, idle):
    """SIGTERM with work in the queue and with connections that only stay open."""
    connections = [wire.Connection(load.port) for _ in range(8)]
    requests = [load.scoring(dialects.BY_NAME["native batch"], "large", Wish()) for _ in connections]
    asked = [
        asyncio.create_task(load.ask(connection, "POST", request.path, request.headers, request.body))
        for connection, request in zip(connections, requests)
    ]
    # Not before all are in the queue, but for the one that is being computed: one that comes later may be refused.
    depth, end = 0, time.monotonic() + 10
    observer = wire.Connection(load.port)
    while depth < len(asked) - 1 and time.monotonic() < end and not all(task.done() for task in asked):
        answer = await observer.ask("GET", "/info", load.identified())
        depth = max(depth, answer.json()["queued"])
    began = time.monotonic()
    waiting = sum(not task.done() for task in asked)
    process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    problems = []
    for request, answer in zip(requests, answers):
        problem = repr(answer) if isinstance(answer, Exception) else request.judge(answer)
        if problem:
            problems.append(problem)
    check("at SIGTERM what was accepted is answered", waiting > 0 and not problems, "; ".join(problems) or f"{waiting} were waiting")
    try:
        code = await asyncio.wait_for(asyncio.to_thread(process.wait), 30)
    except asyncio.TimeoutError:
        code = "none"
    open_still = sum(connection.writer is not None for connection in idle)
    took = time.monotonic() - began
    check("it ends by itself, with idle connections open", code == 0 and open_still > 0, f"exit {code} after {took:.2f} s, {open_still} idle")
    for connection in (*connections, *idle, observer):
        connection.close()


def table(load, took):
    print(f"\n{'kind':<34}{'asked':>7}{'p50 ms':>9}{'p99 ms':>9}   statuses")
    for kind in sorted(load.took):
        times = sorted(load.took[kind])
        p99 = times[min(len(times) - 1, len(times) * 99 // 100)]
        statuses = ", ".join(f"{count} × {status}" for status, count in sorted(load.statuses[kind].items()))
        print(f"{kind:<34}{len(times):>7}{statistics.median(times):>9.1f}{p99:>9.1f}   {statuses}")
    asked = sum(map(len, load.took.values()))
    peak = max(resident for _, resident in load.resident)
    print(f"\n{asked} requests in {took:.1f} s, {asked / took:.0f} a second; resident memory at most {peak / 2**20:.1f} MiB\n")


async def loaded(load, process):
    began = time.monotonic()
    await load.ask_alone()
    print(f"      {len(load.pool.alone)} pairs alone in {time.monotonic() - began:.1f} s", flush=True)
    idle, took = await load.run()
    table(load, took)
    check_answers(load)
    check_memory(load)
    await check_metrics(load)
    await check_drain(load, process, idle)


@contextlib.contextmanager
def server(program, log):
    port = free_port()
    model = pathlib.Path(os.environ.get("MODEL_DIR", DEMO))
    environment = {
        "MODEL_DIR": str(model), "HOST": "127.0.0.1", "PORT": str(port), "API_KEYS": f"another,{KEY}",
        "PRECISION": "int8" if (model / "packed.safetensors").exists() else "f32", "LOG_LEVEL": "warn", "LOG_FORMAT": "json",
        "MAX_QUEUE": str(MAX_QUEUE), "MAX_PAIRS": str(MAX_PAIRS), "MAX_TEXT_CHARS": str(MAX_TEXT_CHARS),
        "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    }
    with process([program, "serve"], environment, log) as started:
        yield started, port, environment["PRECISION"]


async def ready(process, port):
    """Waits for the model; gives the answers that this took."""
    answered = collections.Counter()
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError, wire.Lost):
            connection = wire.Connection(port)
            answer = await connection.ask("GET", "/ready", {})
            connection.close()
            answered["/ready", answer.status] += 1
            if answer.status == 200:
                return answered
        await asyncio.sleep(0.05)
    sys.exit("the server does not become ready")


async def main(program, seconds):
    seconds = int(seconds)
    if seconds < 8:
        sys.exit("fewer than 8 seconds show nothing")
    seed = int(os.environ.get("LOAD_SEED", "4"))
    with tempfile.TemporaryFile("w+") as log:
        with server(str(pathlib.Path(program).resolve()), log) as (started, port, precision):
            print(f"      {CONNECTIONS} connections for {seconds} s, seed {seed}, the model in {precision}", flush=True)
            answered = await ready(started, port)
            await loaded(Load(port, started.pid, seconds, seed, answered), started)
        log.seek(0)
        # Refusals for want of time are warnings, and meant.
        errors = [line for line in log if '"level":"WARN"' not in line]
        check("nothing was logged but warnings", not errors, "".join(errors[:5]))
    return finish()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
