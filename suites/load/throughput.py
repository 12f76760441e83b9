#!/usr/bin/env python3
"""Does the service cost anything: throughput.py PROGRAM SECONDS [OUT].

The program serves the bundled model, and clients ask it in every dialect, with small requests and large ones, over 1, 8, 64 and 512
connections, SECONDS for each. Every request has an id and texts of its own; its answer must have both, and the scores of the documents
alone. Checked is that

- over any number of connections as many tokens are computed a second as one client's passes make (the queue costs nothing): at least
  95 %, of which the clients' and the server's own work outside the passes takes its part where cores are scarce;
- a request for one pair that comes behind one for 500 waits for about one pass, not for all;
- beyond MAX_QUEUE clients are told 429 and when to come back, and are served when they do;
- no answer is lost, none comes twice or to another;
- the memory of the process stays flat, and under a stated bound.

Prints a table, and appends it to OUT. Exits 1 where a check failed. Needs only the standard library. THREADS (1) are the program's
compute threads: where all cores compute, the clients would take theirs from them. CONNECTIONS (1,8,64,512) are tried in turn, the first of
which is the one client.
"""

import asyncio
import collections
import contextlib
import datetime
import os
import pathlib
import platform
import random as randoms
import re
import statistics
import sys
import tempfile
import time

import dialects
import suite
import texts
import wire
from dialects import Wish
from drive import ready, resident_bytes
from suite import DEMO, process, wait_for

CONNECTIONS = [int(number) for number in os.environ.get("CONNECTIONS", "1,8,64,512").split(",")]
# Pairs of a request, and how often: most are small.
SIZES = [1] * 8 + [4] * 4 + [16] * 2 + [50]
# Bodies prepared ahead, so that making them takes nothing from the measurement.
PREPARED = 600
LEAST = 0.95
# A pass's worth of tokens has to be there for passes to be full; a single client gives one request at a time.
BATCH_TOKENS = 4096
GROWTH_BYTES = 16 << 20
# Buffers of 512 connections, their requests and answers.
MOST_BYTES = 256 << 20

lines = []


def say(line=""):
    lines.append(line)
    print(line, flush=True)


def check(name, passed, detail=""):
    lines.append(suite.check(name, passed, detail))


class Prepared:
    """Requests ready to be sent but for their ids."""

    def __init__(self, random):
        self.random = random
        pool = texts.short(random)[1:]
        query = texts.queries(random)[3]
        asked = [d for d in dialects.ALL if d.name not in ("native", "vllm score", "bedrock")]
        self.requests = []
        for number in range(PREPARED):
            dialect = random.choice(asked)
            documents = [f"{number} {n} {random.choice(pool)}" for n in range(random.choice(SIZES))]
            returned = "returned" in dialect.words
            body = dialect.body(query, documents, Wish(returned=returned))
            path = dialect.paths[0][0]
            headers = {"content-type": "application/json", **dialect.headers}
            self.requests.append((number, dialect, path, headers, wire.json.dumps(body).encode(), documents))
        self.alone = {}

    def judge(self, number, dialect, documents, answer):
        """The scores are those of the first time, and documents come back as they were sent."""
        results = dialect.results(answer.json())
        if len(results) != len(documents):
            return f"{len(results)} results for {len(documents)}"
        scores = {index: score for index, score, _ in results}
        known = self.alone.setdefault(number, scores)
        if scores != known:
            return "other scores than before"
        for index, _, document in results:
            if document is None:
                continue
            text = document if isinstance(document, str) else document["text"]
            if text != documents[index]:
                return f"document {index} is someone else's"
        return None


class Phase:
    """One number of connections."""

    def __init__(self, port, pid, prepared, connections, seconds):
        self.port, self.pid, self.prepared, self.seconds = port, pid, prepared, seconds
        self.connections = connections
        self.took, self.wrong, self.answers = [], [], []
        self.statuses = collections.Counter()
        self.pairs = 0
        self.resident = []
        self.sent = 0
        self.came_back = 0
        self.over = False

    async def client(self, number):
        connection = wire.Connection(self.port)
        order = randoms.Random(number)
        while not self.over:
            request = order.choice(self.prepared.requests)
            refused = False
            while True:
                answer = await self.ask(connection, request)
                if answer is None or answer.status != 429:
                    break
                refused = True
                await asyncio.sleep(int(answer.headers["retry-after"]) * order.uniform(1, 1.5))
                if self.over:
                    break
            if answer is not None and answer.status == 200:
                self.came_back += refused
                self.answers.append((request, answer))
        stray = await connection.stray()
        if stray:
            self.wrong.append(f"bytes that nobody asked for: {stray[:100]!r}")
        connection.close()

    async def ask(self, connection, request):
        _, _, path, headers, body, documents = request
        self.sent += 1
        identity = f"{self.connections}-{self.sent}"
        begun = time.monotonic()
        try:
            answer = await connection.ask("POST", path, {"x-request-id": identity, **headers}, body)
        except wire.Lost as lost:
            self.wrong.append(f"{identity}: {lost}")
            return None
        self.statuses[answer.status] += 1
        if answer.headers.get("x-request-id") != identity:
            self.wrong.append(f"the answer to {identity} is {answer.headers.get('x-request-id')}'s")
        if answer.status == 200:
            self.took.append((len(documents), time.monotonic() - begun))
            self.pairs += len(documents)
        elif answer.status != 429 or not answer.headers.get("retry-after", "").isdigit():
            self.wrong.append(f"{identity}: {answer.status} {answer.body[:200]!r}")
        return answer

    async def watch(self):
        while True:
            self.resident.append(resident_bytes(self.pid))
            await asyncio.sleep(0.5)

    async def run(self):
        watch = asyncio.create_task(self.watch())
        clients = [asyncio.create_task(self.client(n)) for n in range(self.connections)]
        # Tokens count when their pass is done, so what is timed begins and ends with one; all are asking all the while.
        before, begun = await next_pass(self.port)
        await asyncio.sleep(self.seconds)
        after, ended = await next_pass(self.port)
        self.over = True
        self.wall = ended - begun
        await asyncio.gather(*clients)
        watch.cancel()
        self.tokens = after["reranker_computed_tokens_total"] - before["reranker_computed_tokens_total"]
        self.passes = after["reranker_passes_total"] - before["reranker_passes_total"]
        self.computing = after["reranker_inference_seconds_sum"] - before["reranker_inference_seconds_sum"]
        # Judged once it is over: comparing takes time too.
        for (number, dialect, _, _, _, documents), answer in self.answers:
            problem = self.prepared.judge(number, dialect, documents, answer)
            if problem:
                self.wrong.append(f"{number} {dialect.name}: {problem}")
        self.answers.clear()
        return self

    def row(self, rate):
        small = sorted(t for pairs, t in self.took if pairs == 1)
        large = sorted(t for pairs, t in self.took if pairs == 50)

        def at(times, share):
            return f"{times[min(len(times) - 1, int(len(times) * share))] * 1e3:8.1f}" if times else f"{'-':>8}"

        return (
            f"{self.connections:>11} {self.statuses[200]:>8} {self.pairs:>7} {self.tokens / self.wall:>9.0f} {rate:>6.1%}"
            f" {self.tokens / max(self.passes, 1):>6.0f} {at(small, 0.5)} {at(small, 0.99)} {at(large, 0.5)} {at(large, 0.99)}"
            f" {self.statuses[429]:>5} {len(self.wrong):>6} {max(self.resident) / 2**20:>8.1f}"
        )


async def next_pass(port):
    """The numbers when the next pass has ended, and the time."""
    connection = wire.Connection(port)
    first = await numbers(port, connection)
    end = time.monotonic() + 30
    while True:
        now = await numbers(port, connection)
        if now["reranker_computed_tokens_total"] > first["reranker_computed_tokens_total"] or time.monotonic() > end:
            connection.close()
            return now, time.monotonic()
        await asyncio.sleep(0.005)


async def numbers(port, connection=None):
    own = connection or wire.Connection(port)
    answer = await own.ask("GET", "/metrics", {})
    if connection is None:
        own.close()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", answer.body.decode(), re.M)}


async def fair(port, random):
    """A request for one pair behind one for 500, again and again."""
    documents = [f"{n} {texts.text(random, 30)}" for n in range(500)]
    body = wire.json.dumps({"query": "a query", "texts": documents}).encode()
    headers = {"content-type": "application/json"}
    large, small = wire.Connection(port), wire.Connection(port)
    waits, wholes, passes = [], [], []
    for n in range(3):
        before = await numbers(port)
        begun = time.monotonic()
        whole = asyncio.create_task(large.ask("POST", "/tei/rerank", headers, body))
        await asyncio.sleep(0.3)
        came = time.monotonic()
        one = wire.json.dumps({"query": "another query", "texts": [f"one {n}"]}).encode()
        answer = await small.ask("POST", "/tei/rerank", headers, one)
        waits.append(time.monotonic() - came)
        told = await whole
        wholes.append(time.monotonic() - begun)
        after = await numbers(port)
        passes.append(wholes[-1] / (after["reranker_passes_total"] - before["reranker_passes_total"]))
        assert answer.status == told.status == 200, (answer, told)
    wait, whole, one = (statistics.median(times) for times in (waits, wholes, passes))
    # One pass under way and the one that it joins, and a little for noise.
    check(
        "one pair behind 500 waits for about a pass, not for all", wait <= 2.5 * one and wait < whole / 3,
        f"{wait * 1e3:.0f} ms, a pass takes {one * 1e3:.0f} ms, the 500 pairs {whole * 1e3:.0f} ms",
    )
    large.close()
    small.close()


@contextlib.contextmanager
def serve(program, **more):
    environment = {
        "MODEL_DIR": str(DEMO), "HOST": "127.0.0.1", "PORT": "0", "LOG_LEVEL": "info",
        "LOG_FORMAT": "text", "THREADS": os.environ.get("THREADS", "1"), "BATCH_TOKENS": str(BATCH_TOKENS), **more,
    }
    with tempfile.TemporaryFile("w+") as log, process([program, "serve"], environment, log) as started:

        def listening():
            log.seek(0)
            return re.search(r"listening address=\S+:(\d+)", log.read())

        yield started, int(wait_for("the server listens", listening, started).group(1))
        started.terminate()
        code = started.wait(60)
        check("SIGTERM ends it well", code == 0, f"exit {code}")


def reference(phase):
    """What one client's passes make of tokens in a second of computing."""
    return phase.tokens / phase.computing


async def measure(program, seconds):
    random = randoms.Random(11)
    prepared = Prepared(random)
    with serve(program, MAX_QUEUE="600") as (started, port):
        await ready(started, port)
        await Phase(port, started.pid, prepared, 1, min(3, seconds)).run()
        say(f"{'connections':>11} {'requests':>8} {'pairs':>7} {'tokens/s':>9} {'rate':>6} {'a pass':>6} {'1: p50':>8} {'p99 ms':>8}"
            f" {' 50: p50':>8} {'p99 ms':>8} {'429':>5} {'errors':>6} {'RSS MiB':>8}")
        phases, rate = [], None
        for connections in CONNECTIONS:
            phase = await Phase(port, started.pid, prepared, connections, seconds).run()
            rate = rate or reference(phase)
            phases.append(phase)
            say(phase.row(phase.tokens / phase.wall / rate))
        say(f"one client's passes compute {rate:.0f} tokens a second")
        wrong = [told for phase in phases for told in phase.wrong]
        for told in wrong[:10]:
            say(f"      {told}")
        check("every answer is its request's own, with the same scores every time; none lost, none twice", not wrong)
        for phase in phases[1:]:
            share = phase.tokens / phase.wall / rate
            check(f"{phase.connections} connections get {LEAST:.0%} of what one client's passes compute", share >= LEAST, f"{share:.1%}")
        # The same crowd once more: what the first one made the process take is there already.
        again = await Phase(port, started.pid, prepared, CONNECTIONS[-1], seconds).run()
        growth = max(again.resident) - max(phases[-1].resident)
        check(
            "memory stays flat", growth <= GROWTH_BYTES and max(again.resident) <= MOST_BYTES and not again.wrong,
            f"{growth / 2**20:+.1f} MiB in a second run of {CONNECTIONS[-1]}, bound {GROWTH_BYTES >> 20}; at most "
            f"{max(again.resident) / 2**20:.1f} MiB, bound {MOST_BYTES >> 20}",
        )
        await fair(port, random)
    # More than may wait.
    with serve(program, MAX_QUEUE="32") as (started, port):
        await ready(started, port)
        phase = await Phase(port, started.pid, prepared, 256, seconds).run()
        say(phase.row(phase.tokens / phase.wall / rate))
        check(
            "beyond the queue clients are told when to come back, and are served then",
            not phase.wrong and phase.statuses[429] > 0 and phase.came_back > 0,
            f"{phase.statuses[429]} × 429, {phase.came_back} requests served after one",
        )
        check("and the rate holds", phase.tokens / phase.wall / rate >= LEAST, f"{phase.tokens / phase.wall / rate:.1%}")


async def main(program, seconds, out=None):
    program = str(pathlib.Path(program).resolve())
    say(f"{datetime.date.today()}  {platform.machine()}, {os.cpu_count()} cores, {os.environ.get('THREADS', '1')} compute threads, {seconds} s each, the bundled model")
    await measure(program, int(seconds))
    say(f"{suite.failures} failed" if suite.failures else "all passed")
    if out:
        with open(out, "a") as record:
            record.write("\n".join(lines) + "\n\n")
    return 1 if suite.failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
