"""What every Python client is put through, and how it is written down.

A client is a function that ranks documents by calling its package the way its users do; `client` says what the package raises when
the server refuses. Each is called three times: with documents of which one answers the query, with one over the server's limit, and
with a wrong key. What the server's own log says about each call (route, status) is read after it, so that nothing counts which the
client has decided by itself, and a client that asks twice is noticed.
"""

import importlib.metadata
import inspect
import json
import os
import pathlib
import re
import time
import traceback

# Written by drive.py, which starts the server: {"url", "open_url", "key", "log", "open_log", "query", "documents", "scores", "limit"}.
SETUP = json.loads(pathlib.Path(os.environ["SETUP"]).read_text())
RESULTS = pathlib.Path(os.environ["RESULTS"])
MODEL = "any-name"
WRONG_KEY = "not-the-key"
TOP_N = 2
# A score is the same to the bit on every route; a client may round it to f32.
TOLERANCE = 1e-6

clients = []


def client(package, called, *, refuses, unauthorized, silent=False, keyless=False):
    """Registers a function (url, key, query, documents, top_n) -> [(index, score, text or None)].

    refuses, unauthorized: names of the exceptions that the client raises, its own or inherited.
    silent: the client does not show the server's message to its caller. keyless: the client cannot send a key.
    """

    def register(rank):
        clients.append((package, called, refuses, unauthorized, silent, keyless, rank))
        return rank

    return register


def base(rank):
    """What a client is given behind the server's address, as the function that calls it has it."""
    behind = re.search(r'f"\{url\}(/[^"]*)"', inspect.getsource(rank))
    return behind[1] if behind else ""


def requests_since(log, offset):
    """The requests that a server has logged beyond `offset`, which are there once the call has returned, or very soon after."""
    end = time.monotonic() + 5
    while True:
        with open(log) as lines:
            lines.seek(offset)
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
        requests = [(entry["route"], entry["status"]) for entry in entries if entry["message"] == "request"]
        if requests or time.monotonic() > end:
            return requests
        time.sleep(0.01)


def observed(log, call):
    """What `call` returned or raised, and the one request that the server saw of it."""
    offset = os.path.getsize(log)
    try:
        outcome = call()
    except Exception as error:
        outcome = error
    requests = requests_since(log, offset)
    if len(requests) != 1:
        # Chained, so that a failure shows what the client has said.
        raise AssertionError(f"the server saw {requests}") from (outcome if isinstance(outcome, Exception) else None)
    return outcome, *requests[0]


def check_success(outcome, status):
    if isinstance(outcome, Exception):
        raise outcome
    assert status == 200, status
    assert len(outcome) == TOP_N, f"{len(outcome)} results instead of {TOP_N}"
    best = sorted(range(len(SETUP["scores"])), key=lambda index: -SETUP["scores"][index])[:TOP_N]
    assert [index for index, _, _ in outcome] == best, f"{outcome} instead of {best}"
    for index, score, text in outcome:
        assert abs(score - SETUP["scores"][index]) < TOLERANCE, f"{score} for document {index}, whose score is {SETUP['scores'][index]}"
        assert text in (None, SETUP["documents"][index]), f"{text!r} for document {index}"


def check_raised(outcome, status, *, expected_status, name, message):
    assert status == expected_status, f"{status}: {outcome!r}"
    assert isinstance(outcome, Exception), f"no error but {outcome!r}"
    names = [kind.__name__ for kind in type(outcome).__mro__]
    if name not in names:
        raise AssertionError(f"{names[0]} instead of {name}") from outcome
    if message is not None and message not in f"{outcome} {outcome!r}":
        raise AssertionError(f"no {message!r} in {outcome!r}") from outcome


def check(package, called, refuses, unauthorized, silent, keyless, rank):
    documents = SETUP["documents"]
    too_long = documents[:2] + ["x" * (SETUP["limit"] + 1)]
    server, log = ("open_url", "open_log") if keyless else ("url", "log")
    limit_named = None if silent else f"limit is {SETUP['limit']}"
    result = {"registry": "PyPI", "package": package, "version": importlib.metadata.version(package), "called": called}
    result |= {"base": base(rank), "route": None, "silent": silent, "keyless": keyless, "failures": {}}

    def passed(name, server, log, key, documents, judge):
        try:
            outcome, route, status = observed(
                SETUP[log], lambda: rank(SETUP[server], key, SETUP["query"], documents, TOP_N)
            )
            if name == "success":
                result["route"] = route
            assert route == result["route"], f"{route} instead of {result['route']}"
            judge(outcome, status)
        except Exception:
            result["failures"][name] = traceback.format_exc()
        result[name] = name not in result["failures"]

    passed("success", server, log, SETUP["key"], documents, check_success)
    refused = dict(expected_status=422, name=refuses, message=limit_named)
    passed("error", server, log, SETUP["key"], too_long, lambda *seen: check_raised(*seen, **refused))
    # A client without a key must be turned away by a server that asks for one.
    locked_out = dict(expected_status=401, name=unauthorized, message=None)
    passed("auth", "url", "log", WRONG_KEY, documents, lambda *seen: check_raised(*seen, **locked_out))
    with RESULTS.open("a") as results:
        results.write(json.dumps(result) + "\n")


def main():
    for arguments in clients:
        check(*arguments)
