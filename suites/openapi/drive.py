"""Holds the program to its own OpenAPI document: drive.py PROGRAM FOLDER, with schemathesis beside this Python.

Three times over: a server that is open to everyone, one with keys and a client that has one, and the same with a client that has
none. Prints one line a check; exits 1 where one failed. Schemathesis' own words, with a curl line for each failure, stay in FOLDER.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import openapi_spec_validator
from suite import DEMO, ROOT, check, finish, serving

SEED = 20
KEY = "a-key-of-the-test"
# The three runs take about 70 s; this is for slow machines.
PATIENCE = 300
# What needs no key. The rest does.
OPEN = {"GET /", "GET /docs", "GET /health", "GET /live", "GET /ping", "GET /ready"}


@contextlib.contextmanager
def server(program, log, **variables):
    """Its address; it must outlive what it is asked."""
    with serving(program, log, MODEL_DIR=os.environ.get("MODEL_DIR", str(DEMO)), LOG_LEVEL="warn", **variables) as started:
        yield started.url
        check("the server is still there", started.process.poll() is None)


def operations(document):
    """Each operation's name, and what the document says of it."""
    for path, item in document["paths"].items():
        for method in ("get", "post"):
            if method in item:
                yield f"{method.upper()} {path}", item[method]


def examples(document, operation):
    """The example bodies of an operation: those of its body's schema, or of the several that it may be."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    for each in schema.get("anyOf", schema.get("oneOf", [schema])):
        name = each.get("$ref", "").rpartition("/")[2]
        each = document["components"]["schemas"].get(name, each)
        if "example" in each:
            yield each["example"]


def check_document(base):
    """The document is valid, and its examples are true."""
    with urllib.request.urlopen(base + "/openapi.json", timeout=10) as response:
        document = json.load(response)
    try:
        openapi_spec_validator.validate(document)
        check("/openapi.json is valid", True, f"OpenAPI {document['openapi']}, {len(list(operations(document)))} operations")
    except Exception as error:
        check("/openapi.json is valid", False, str(error)[:500])
    wrong, told = [], 0
    for name, operation in operations(document):
        method, path = name.split(" ")
        for parameter in operation.get("parameters", []):
            for example in parameter["schema"].get("examples", []) if parameter["in"] == "path" else []:
                path = path.replace("{%s}" % parameter["name"], example)
        bodies = list(examples(document, operation))
        if method == "POST" and not bodies:
            wrong.append(f"{name} has no example")
        for body in bodies:
            told += 1
            request = urllib.request.Request(base + path, json.dumps(body).encode(), {"content-type": "application/json"})
            try:
                urllib.request.urlopen(request, timeout=30)
            except urllib.error.HTTPError as error:
                wrong.append(f"{name} {error.code} {error.read()[:200]}")
    check("every example is answered 200", told > 0 and not wrong, "; ".join(wrong) or f"{told} examples")
    return document


def schemathesis(title, base, folder, *options):
    """One run. Gives the statuses that each operation answered with."""
    name = title.replace(" ", "-")
    text, events, summary = (folder / f"{name}.{ending}" for ending in ("txt", "ndjson", "json"))
    for stale in (events, summary):
        stale.unlink(missing_ok=True)
    command = [
        pathlib.Path(sys.executable).with_name("schemathesis"), "--config-file", ROOT / "suites/openapi/schemathesis.toml",
        "run", base + "/openapi.json", "--url", base, "--seed", str(SEED), "--generation-database", "none",
        "--no-shrink", "--continue-on-failure", "--request-timeout", "30", "--no-color", "--output-sanitize", "false",
        "--report-ndjson-path", events, "--report-json-path", summary, *options,
    ]
    with text.open("w") as out:
        try:
            status = subprocess.run(command, cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL, timeout=PATIENCE).returncode
        except subprocess.TimeoutExpired:
            status = f"not done in {PATIENCE} s"
    report = json.loads(summary.read_text()) if summary.exists() else {}
    cases = report.get("test_cases", {}).get("generated", 0)
    counted = report.get("operations", {})
    all_tested = report.get("complete", False) and counted["tested"] == counted["total"] > 0
    found = {failure["title"]: len(failure["operations"]) for failure in report.get("failures", [])}
    detail = f"{cases} requests to {counted.get('tested', 0)} operations"
    if status != 0:
        detail += f", exit {status}, {found or 'no report'}, see {text.relative_to(ROOT)}"
    check(f"schemathesis, {title}", status == 0 and all_tested, detail)
    if found:
        show(text.read_text())
    return answered(events)


def show(text):
    """The first failure of each kind, which are many where one schema is wrong that many operations share."""
    seen = set()
    for case in re.split(r"\n(?=\d+\. Test Case ID|_{5,} )", text):
        for kind in re.findall(r"^- (ST\d+ .*)$", case, re.M):
            if kind not in seen:
                seen.add(kind)
                print("      " + "\n      ".join(case.splitlines()[:60]))


def answered(events):
    statuses = collections.defaultdict(collections.Counter)
    with events.open() as lines:
        for line in lines:
            scenario = json.loads(line).get("ScenarioFinished")
            for interaction in (scenario or {}).get("recorder", {}).get("interactions", {}).values():
                status = (interaction.get("response") or {}).get("status_code")
                statuses[scenario["recorder"]["label"]][status] += 1
    return statuses


def check_reached(title, document, statuses):
    """That the checks had something to check: each operation succeeded, and those with a body also refused some."""
    names = dict(operations(document))
    lacking = [name for name in names if not statuses[name][200]]
    lacking += [name for name in names if statuses[name][401]]
    lacking += [name for name, operation in names.items() if "requestBody" in operation and not statuses[name][422]]
    total = sum(map(collections.Counter, statuses.values()), collections.Counter())
    told = ", ".join(f"{count} × {status}" for status, count in sorted(total.items()))
    check(f"{title}: each operation was reached", not lacking, f"not {lacking}" if lacking else told)


def main(program, folder):
    program, folder = str(pathlib.Path(program).resolve()), pathlib.Path(folder).resolve()
    with (folder / "server.log").open("w") as log:
        with server(program, log) as base:
            document = check_document(base)
            statuses = schemathesis("open to everyone", base, folder, "--phases", "examples,coverage,fuzzing", "--max-examples", "10")
            check_reached("open to everyone", document, statuses)
        brief = ("--phases", "examples,fuzzing", "--max-examples", "6")
        with server(program, log, API_KEYS=KEY) as base:
            statuses = schemathesis("with a key", base, folder, "--header", f"x-api-key: {KEY}", *brief)
            check_reached("with a key", document, statuses)
            statuses = schemathesis("without a key", base, folder, *brief)
            names = {name for name, _ in operations(document)}
            wrong = {name: dict(statuses[name]) for name in names - OPEN if set(statuses[name]) != {401}}
            wrong |= {name: dict(statuses[name]) for name in OPEN if not statuses[name][200] or statuses[name][401]}
            check("without a key all but the open pages answer 401", not wrong, str(wrong or f"{len(names - OPEN)} of {len(names)}"))
    return finish()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
