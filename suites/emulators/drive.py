#!/usr/bin/env python3
"""Drives the emulators of Lambda: drive.py RIE CARGO_LAMBDA PROGRAM.

Starts PROGRAM in AWS's runtime interface emulator, behind cargo-lambda's runtime API, and on a plain port; sends every
events/*.json to the first two and the same request to the third, and compares. Prints one line a check; exits 1 where one failed. Needs only the standard library.
"""

import base64
import contextlib
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading

import suite
from suite import ROOT, check, finish, free_port, listens, process, request, serving, wait_for

MODEL = {"MODEL_DIR": str(ROOT / "tests/golden/xlm-roberta")}
# Longer than anything here takes on a slow machine.
PATIENCE = 120
# The function's own limit in the check of deadlines, in seconds.
SHORT_TIMEOUT = 3


def wait_for_port(port, started=None):
    wait_for(f"port {port} takes connections", lambda: listens(port), started, PATIENCE)


@contextlib.contextmanager
def emulator(rie, program, log, timeout, **variables):
    port, runtime = free_port(), free_port()
    command = [
        rie,
        "--runtime-interface-emulator-address", f"127.0.0.1:{port}",
        "--runtime-api-address", f"127.0.0.1:{runtime}",
        program,
    ]
    environment = {**MODEL, "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout), **variables}
    with process(command, environment, log) as started:
        wait_for_port(port, started)
        yield lambda event: request(port, "POST", "/2015-03-31/functions/function/invocations", event)


@contextlib.contextmanager
def cargo_lambda(executable, program, log):
    """cargo-lambda's runtime API. Its deadlines lie in the year 1970, which must not matter."""
    port = free_port()
    command = [executable, "lambda", "watch", "--only-lambda-apis", "--invoke-address", "127.0.0.1", "--invoke-port", str(port)]
    function = {
        **MODEL,
        "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{port}/.rt",
        "AWS_LAMBDA_FUNCTION_NAME": "_",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "2048",
    }
    with process(command, {}, log) as started:
        wait_for_port(port, started)
        with process([program], function, log):
            yield port


def as_http(event):
    """Method, path and body of what an event asks for, the stage taken off."""
    context = event["requestContext"]
    if "http" in context:
        method, path = context["http"]["method"], event["rawPath"]
        stage = "/" + context["stage"]
        if "proxy" in event.get("pathParameters", {}):
            # The gateway has found it, below a stage or the base path of a custom domain.
            path = "/" + event["pathParameters"]["proxy"]
        elif path == stage or path.startswith(stage + "/"):
            path = path[len(stage):] or "/"
    elif event.get("pathParameters"):
        method, path = event["httpMethod"], "/" + event["pathParameters"]["proxy"]
    else:
        method, path = event["httpMethod"], event["path"]
    return method, path, body_of(event)


def body_of(message):
    body = (message.get("body") or "").encode()
    return base64.b64decode(body) if message.get("isBase64Encoded") else body


def comparable(body):
    """A body without what differs from one time to the next."""
    try:
        value = json.loads(body)
    except ValueError:
        return body  # a page
    for name in ("ms", "uptime_s", "cold_start"):
        value.pop(name, None)
    return value


def check_events(emulator_name, invoke, port):
    for path in sorted((ROOT / "events").glob("*.json")):
        event = json.loads(path.read_text())
        name = f"{emulator_name} {path.name}"
        status, answer = invoke(path.read_bytes())
        answer = json.loads(answer)
        method, target, body = as_http(event)
        headers = {"content-type": "application/json"} if body else {}
        expected_status, expected = request(port, method, target, body, headers)
        same = (
            status == 200
            and answer.get("statusCode") == expected_status
            and comparable(body_of(answer)) == comparable(expected)
        )
        detail = f"{method} {target} {answer.get('statusCode')}"
        check(name, same, detail if same else f"{detail}, {answer} instead of {expected_status} {expected}")


def check_others(emulator_name, invoke):
    """Events that no gateway made of a request: none fails the function."""
    for path in sorted((ROOT / "events/other").glob("*.json")):
        status, answer = invoke(path.read_bytes())
        answer = json.loads(answer)
        known = {"warm", "results", "error", "statusCode"} & set(answer)
        check(f"{emulator_name} other/{path.name}", status == 200 and known and "errorType" not in answer, str(answer)[:120])


def check_health(invoke):
    event = (ROOT / "events/health.json").read_bytes()
    health = json.loads(body_of(json.loads(invoke(event)[1])))
    check("the function outlived the errors", health["status"] == "ok" and health["loaded"], f"up {health['uptime_s']} s")


def check_function_url(url, port):
    """cargo-lambda also plays the front door: plain HTTP in, an event to the function, plain HTTP out."""
    body = body_of(json.loads((ROOT / "events/batch.json").read_text()))
    headers = {"content-type": "application/json"}
    for method, path, body in (("POST", "/rerank/batch", body), ("POST", "/rerank", b"{"), ("GET", "/nowhere", b"")):
        status, answer = request(url, method, path, body, headers)
        expected_status, expected = request(port, method, path, body, headers)
        same = status == expected_status and comparable(answer) == comparable(expected)
        check(f"cargo-lambda {method} {path}", same, f"{status}" if same else f"{status} {answer} instead of {expected}")


def check_deadline(invoke):
    """Work for much longer than the function's timeout must be an answer, not the platform's "Task timed out".

    The emulator cuts events at 6 MB, so this one stays below that.
    """
    event = json.loads((ROOT / "events/batch.json").read_text())

    def pair(number):
        # Each one different: equal ones are computed once.
        digits = " ".join("ab"[number >> place & 1] for place in range(15))
        return {"query": "how long?", "passage": digits + " a b" * 52}

    event["body"] = json.dumps({"pairs": [pair(number) for number in range(19000)]}, separators=(",", ":"))
    event["headers"]["content-length"] = str(len(event["body"]))
    answer = json.loads(invoke(json.dumps(event).encode())[1])
    in_time = answer.get("statusCode") == 504
    check("a deadline is met", in_time, str(answer.get("body", answer))[:120])
    answer = json.loads(invoke((ROOT / "events/apigw-v2.json").read_bytes())[1])
    check("the next request is answered", answer.get("statusCode") == 200)


def main(rie, cargo_lambda_executable, program):
    # An interruption unwinds through the context managers, which end the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    watchdog = threading.Timer(10 * PATIENCE, lambda: os.kill(os.getpid(), signal.SIGTERM))
    watchdog.daemon = True
    watchdog.start()
    paths = (rie, cargo_lambda_executable, program)
    rie, cargo_lambda_executable, program = (str(pathlib.Path(path).resolve()) for path in paths)
    with tempfile.TemporaryFile("w+") as log:
        with serving(program, log, **MODEL) as server:
            port = server.port
            with emulator(rie, program, log, PATIENCE) as invoke:
                check_events("RIE", invoke, port)
                check_others("RIE", invoke)
                check_health(invoke)
            with cargo_lambda(cargo_lambda_executable, program, log) as url:
                path = "/2015-03-31/functions/_/invocations"
                through = lambda event: request(url, "POST", path, event)
                check_events("cargo-lambda", through, port)
                check_others("cargo-lambda", through)
                check_function_url(url, port)
        long_work = {"THREADS": "1", "BATCH_TOKENS": "16", "MAX_PAIRS": "100000", "MAX_TOKENS": "0"}
        with emulator(rie, program, log, SHORT_TIMEOUT, **long_work) as invoke:
            # The first invocation's time holds the initialisation.
            invoke((ROOT / "events/health.json").read_bytes())
            check_deadline(invoke)
        if suite.failures:
            log.seek(0)
            print(log.read(), file=sys.stderr)
    return finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
