"""Runs the bulk state machine over files of pairs, with AWS's own Lambda emulator and the program as its function.

    bulk.py PROGRAM EMULATOR FOLDER     FOLDER gets the definition as a CloudFormation template, for cfn-lint

Of the language only what the definition uses is here; anything else is an error. Expressions are evaluated by a JSONata engine.
What a real run adds (S3 itself, limits, parallel batches) is not seen. What reads the lines before the map is driven on S3 by lines.py.
"""

import gzip
import importlib.util
import io
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.request

import jsonata

EMULATOR, RUNTIME = "127.0.0.1:9140", "127.0.0.1:9141"
MODULE = pathlib.Path(__file__).resolve().parents[2] / "terraform/modules/lambda-bulk"
SETTINGS = {
    "partition": "aws",
    "bucket": "reranker-bulk",
    "function": "arn:aws:lambda:eu-central-1:123456789012:function:reranker-bulk:live",
    "lines": "arn:aws:lambda:eu-central-1:123456789012:function:reranker-bulk-lines",
    "batch_pairs": "3",
    "concurrency": "5",
    "tolerated_failures": "1",
}
PAIRS = [
    {"id": "panda", "query": "what do giant pandas eat?", "passage": "Bamboo shoots and leaves make up nearly all of the panda's diet."},
    {"id": 17, "query": "what do giant pandas eat?", "passage": "Our offices are open \"from nine to five\".\nExcept on Sundays: 🐼"},
    {"id": "last", "query": "how long is the Nile?", "passage": "The Nile is about 6,650 km long."},
]
# Lines that are refused, each with its code and a part of its reason.
BAD = [
    ({"id": "empty", "query": "", "passage": "text"}, "empty_query", "query is empty"),
    ({"id": "half", "query": "what?"}, "missing_field", "passage is missing"),
    ({"id": "number", "query": "what?", "passage": 7}, "wrong_type", "passage"),
    ({"passage": "without an id"}, "missing_field", "query is missing"),
    ("no object", "missing_field", "missing"),
]
# Lines as they stand in a file that are no JSON, each with a part of its reason.
UNREADABLE = [
    (b"not a pair", "is no JSON"),
    (b'{"id": "cut", "query": "what?', "is no JSON"),
    (b'{"id": NaN, "query": "what?", "passage": "that"}', "NaN"),
    (b'{"id": "latin", "query": "gr\xfc\xdfe", "passage": "that"}', "UTF-8"),
    (b'{"id": "half", "query": "\\ud83d", "passage": "that"}', "surrogate"),
    (b'{"id": "long", "query": "what?", "passage": "' + 140_000 * b"x" + b'"}', "at most"),
]
MOST_BYTES = 262_144  # of a state's input or output
EXPRESS_S = 300


def of_terraform(name):
    """A list of names in the module's locals."""
    return re.findall(r'"([^"]+)"', re.search(rf"^  {name} += \[(.*?)\]", (MODULE / "main.tf").read_text(), re.M | re.S)[1])


def definition(path):
    """As Terraform's templatefile makes it."""
    text = path.read_text()
    main = (MODULE / "main.tf").read_text()
    transient, seconds = of_terraform("transient_errors"), int(re.search(r"function_timeout_s = (\d+)", main)[1])
    more = {
        "batch_bytes": re.search(r"batch_bytes += (\d+)", main)[1],
        "read_s": str(int(re.search(r" timeout += (\d+)", main)[1]) + 5),
        "call_s": str(seconds + int(re.search(r"local\.function_timeout_s \+ (\d+)", main)[1])),
        "transient": json.dumps(transient),
        "crashes": json.dumps(of_terraform("crashes")),
        "transient_names": "['" + "', '".join(transient) + "']",
    }
    for name, value in (SETTINGS | more).items():
        text = text.replace("${" + name + "}", value)
    assert "${" not in text, "the definition has a setting that this check does not know"
    return json.loads(text)


def evaluate(node, states):
    if isinstance(node, dict):
        return {key: evaluate(child, states) for key, child in node.items()}
    if isinstance(node, list):
        return [evaluate(child, states) for child in node]
    if isinstance(node, str) and node.startswith("{%") and node.endswith("%}"):
        expression = jsonata.Jsonata(node[2:-2])
        expression.assign("states", states)
        # Step Functions' own addition to the language.
        expression.register_lambda("parse", json.loads)
        value = expression.evaluate(None)
        assert value is not None, f"{node} gives nothing, which Step Functions refuses"
        return value
    return node


def wait_for(port, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"nothing listens on {port}")


class Failed(Exception):
    """A state's error: its name and its cause."""


def invoke(payload):
    request = urllib.request.Request(
        f"http://{EMULATOR}/2015-03-31/functions/function/invocations", json.dumps(payload).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.loads(response.read())
    # What Step Functions makes of an error of the function.
    if isinstance(answer, dict) and "errorType" in answer:
        raise Failed(answer["errorType"], json.dumps(answer))
    return {"Payload": answer}


def reading():
    """The function that reads files before the map does."""
    os.environ["AWS_DEFAULT_REGION"] = "eu-central-1"
    spec = importlib.util.spec_from_file_location("lines", MODULE.parents[2] / "aws/bulk/lines.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LINES = reading()


class Cloud:
    """The functions and the bucket. What is in `broken` happens first, one after the other."""

    def __init__(self, *broken):
        self.broken, self.calls, self.objects = list(broken), 0, {}

    def task(self, resource, arguments):
        match resource.rsplit(":", 2)[-2:]:
            case ["lambda", "invoke"] if arguments["FunctionName"] == SETTINGS["lines"]:
                most = int(re.search(r"line_bytes += (\d+)", (MODULE / "main.tf").read_text())[1])
                payload = arguments["Payload"]
                return {"Payload": LINES.prepare(self, SETTINGS["bucket"], payload["key"], payload["copy"], most)}
            case ["lambda", "invoke"]:
                assert arguments["FunctionName"] == SETTINGS["function"]
                self.calls += 1
                if self.broken:
                    raise self.broken.pop(0)
                return invoke(arguments["Payload"])
            case ["s3", "putObject"]:
                assert arguments["IfNoneMatch"] == "*" and arguments["Bucket"] == SETTINGS["bucket"]
                if arguments["Key"] in self.objects:
                    raise Failed("S3.S3Exception", "At least one of the pre-conditions you specified did not hold (Service: S3, Status Code: 412)")
                error = self.broken.pop(0) if self.broken else None
                # An answer that is lost comes after the object is there.
                if error is None or error.args[0] == "S3.SdkClientException":
                    self.objects[arguments["Key"]] = json.dumps(arguments["Body"])
                if error:
                    raise error
                return {}
            case ["s3", "getObject"]:
                return {"Body": self.objects[arguments["Key"]]}
            case other:
                raise ValueError(f"a task {other}, which this check does not know")

    # As the function that reads lines asks S3.

    def get_object(self, Bucket, Key):
        return {"Body": io.BytesIO(self.objects[Key])}

    def put_object(self, Bucket, Key, Body):
        self.objects[Key] = Body


def matches(names, error):
    return error in names or "States.ALL" in names or ("States.TaskFailed" in names and error != "States.Timeout")


def attempt(state, work):
    """What the work gives, made again as `Retry` says."""
    made = [0] * len(state.get("Retry", []))
    while True:
        try:
            return work()
        except Failed as failed:
            for index, retry in enumerate(state.get("Retry", [])):
                if matches(retry["ErrorEquals"], failed.args[0]):
                    break
            else:
                raise
            if made[index] == retry["MaxAttempts"]:
                raise
            made[index] += 1


def run(machine, value, cloud, execution="batch"):
    """One execution of a workflow."""
    states = {"context": {"Execution": {"Name": execution, "Id": f"arn:aws:states:eu-central-1:123456789012:execution:bulk:{execution}"}}}
    name = machine["StartAt"]
    while True:
        state = machine["States"][name]
        assert len(json.dumps(value)) <= MOST_BYTES
        states["input"] = value
        try:
            match state["Type"]:
                case "Task":
                    arguments = evaluate(state["Arguments"], states)
                    result = attempt(state, lambda: cloud.task(state["Resource"], arguments))
                    value = evaluate(state["Output"], states | {"result": result})
                case "Choice":
                    taken = [choice["Next"] for choice in state["Choices"] if evaluate(choice["Condition"], states)]
                    name = (taken or [state["Default"]])[0]
                    continue
                case "Pass":
                    value = evaluate(state["Output"], states)
                case "Map":
                    if state["ItemProcessor"]["ProcessorConfig"]["Mode"] == "DISTRIBUTED":
                        value = distributed(state, states, cloud)
                    else:
                        value = [run(state["ItemProcessor"], item, cloud) for item in evaluate(state["Items"], states)]
                case "Wait":
                    assert state["Seconds"] > 0
                case "Succeed":
                    return value
                case "Fail":
                    raise Failed(evaluate(state["Error"], states), evaluate(state["Cause"], states))
                case other:
                    raise ValueError(f"a state of type {other}, which this check does not know")
        except Failed as failed:
            catches = [catch for catch in state.get("Catch", []) if matches(catch["ErrorEquals"], failed.args[0])]
            if not catches:
                raise
            error = {"Error": failed.args[0], "Cause": failed.args[1]}
            value = evaluate(catches[0]["Output"], states | {"errorOutput": error})
            name = catches[0]["Next"]
            continue
        if state.get("End"):
            return value
        name = state["Next"]


def distributed(state, states, cloud):
    """Reads the file, cuts it into batches, and joins their rows as FLATTEN does."""
    reader = evaluate(state["ItemReader"]["Arguments"], states)
    assert reader["Bucket"] == SETTINGS["bucket"], reader
    try:
        lines = [json.loads(line, parse_constant=LINES.refused) for line in cloud.objects[reader["Key"]].splitlines()]
    except ValueError as error:
        raise Failed("States.ItemReaderFailed", str(error)) from error
    items = [
        evaluate(state["ItemSelector"], states | {"context": states["context"] | {"Map": {"Item": {"Index": index, "Value": line}}}})
        for index, line in enumerate(lines)
    ]
    size = state["ItemBatcher"]["MaxItemsPerBatch"]
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    rows = [row for batch in batches for row in run(state["ItemProcessor"], {"Items": batch}, cloud)]
    prefix = evaluate(state["ResultWriter"]["Arguments"], states)["Prefix"]
    cloud.objects[f"{prefix}/{states['context']['Execution']['Name']}/rows"] = rows
    return {}


def rows_of(machine, lines, *broken):
    """The rows of a file, and the calls that they took."""
    cloud = Cloud()
    workflow = machine["States"]["Every pair"]["ItemProcessor"]
    if broken:
        # Only the function breaks here.
        items = [{"line": index + 1, "item": line, "wrong": ""} for index, line in enumerate(lines)]
        cloud.broken = list(broken)
        return run(workflow, {"Items": items}, cloud), cloud.calls
    return rows_of_file(machine, text_of(lines), cloud)


def text_of(lines):
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def rows_of_file(machine, content, cloud, name="pairs.jsonl"):
    cloud.objects[f"in/2026/{name}"] = content
    run(machine, {"key": f"in/2026/{name}", "sequencer": "0055"}, cloud, "first")
    return cloud.objects[f"out/2026/{name}/first/rows"], cloud.calls


def check_rows(machine):
    lines, calls = rows_of(machine, PAIRS)
    assert calls == 1, calls
    assert [row["id"] for row in lines] == [pair["id"] for pair in PAIRS], lines
    assert all(set(row) == {"id", "score", "logit", "tokens", "truncated"} for row in lines), lines
    assert all(0 <= row["score"] <= 1 and row["tokens"] > 0 for row in lines), lines
    assert lines[0]["score"] > lines[1]["score"], f"bamboo must come before office hours: {lines}"

    # A bad line anywhere costs itself.
    for place in range(len(PAIRS) + 1):
        for bad, code, reason in BAD:
            mixed = [*PAIRS[:place], bad, *PAIRS[place:]]
            got, _ = rows_of(machine, mixed)
            refused = got.pop(place)
            assert got == lines, (bad, got)
            assert refused["line"] == place + 1 and refused["error"]["code"] == code, refused
            assert reason in refused["error"]["message"] and "score" not in refused, refused
            assert refused.get("id") == (bad.get("id") if isinstance(bad, dict) else None), refused
    # So does a line that is no JSON.
    for place in range(len(PAIRS) + 1):
        for bad, reason in UNREADABLE:
            got, _ = rows_of(machine, [*PAIRS[:place], bad, *PAIRS[place:]])
            refused = got.pop(place)
            assert got == lines, (bad, got)
            assert refused["line"] == place + 1 and refused["error"]["code"] == "invalid_json" and reason in refused["error"]["message"], refused
    # Packed, with a byte order mark, with empty lines, with ends of lines of Windows: the same rows.
    text = text_of(PAIRS)
    for name, content in (("pairs.jsonl.gz", gzip.compress(text)), ("pairs.jsonl", gzip.compress(text)), ("pairs.jsonl", b"\xef\xbb\xbf" + text),
                          ("pairs.jsonl", text.replace(b"\n", b"\r\n")), ("pairs.jsonl", b"\n" + text.replace(b"\n", b"\n\n")), ("pairs.jsonl", text.rstrip(b"\n"))):
        got, calls = rows_of_file(machine, content, Cloud(), name)
        assert (got, calls) == (lines, 1), (content, got)
    every, _ = rows_of(machine, [bad for bad, _, _ in BAD])
    assert [row["error"]["code"] for row in every] == [code for _, code, _ in BAD], every
    return lines


def check_retries(machine, lines):
    transient, crashes = of_terraform("transient_errors"), of_terraform("crashes")
    table = re.findall(r"^\| ([\d, ]+) \| `(\w+)` \|", (MODULE.parents[2] / "docs/reference/errors.md").read_text(), re.M)
    assert len(table) > 30, table
    for statuses, code in table:
        # A deadline is met by a pair alone, if at all; the function has no keys that could have limits.
        passes = {"429", "500", "503"} & set(statuses.split(", ")) and code not in ("deadline_unreachable", "rate_limited", "quota_exceeded")
        assert bool(passes) == (f"Reranker.{code}" in transient + crashes), f"{code}: {statuses}"
    for name in transient:
        got, calls = rows_of(machine, PAIRS, *[Failed(name, "")] * 5)
        assert (got, calls) == (lines, 6), (name, got, calls)
        # What does not pass fails the batch, for a redrive, and is no pair's fault.
        try:
            rows_of(machine, PAIRS, *[Failed(name, "")] * 6)
            raise AssertionError(f"{name} must fail the batch")
        except Failed as failed:
            assert failed.args[0] == name, failed
    for name in crashes:
        got, calls = rows_of(machine, PAIRS, Failed(name, ""))
        assert (got, calls) == (lines, 2), (name, got, calls)
    # A pair on which the program breaks is found.
    internal = Failed("Reranker.internal", json.dumps({"errorMessage": "internal error"}))
    got, _ = rows_of(machine, PAIRS, internal, internal, internal)
    assert got[1:] == lines[1:] and got[0]["error"] == {"code": "internal", "message": "internal error"}, got

    # The longest way to an answer of a batch: errors that come at once, a call that takes all its time and crashes, and one more.
    workflow = machine["States"]["Every pair"]["ItemProcessor"]
    [short, crash] = workflow["States"]["Score"]["Retry"]
    waits = sum(min(short["IntervalSeconds"] * short["BackoffRate"] ** n, short["MaxDelaySeconds"]) for n in range(short["MaxAttempts"]))
    longest = waits + crash["MaxAttempts"] * crash["IntervalSeconds"] + (1 + crash["MaxAttempts"]) * workflow["States"]["Score"]["TimeoutSeconds"]
    assert longest < EXPRESS_S, f"{longest} s are more than an express workflow has"


def check_events(machine):
    first = {"key": "in/2026/pairs.jsonl", "sequencer": "0055"}
    lost_answer = Failed("S3.SdkClientException", "")
    conflict = Failed("S3.S3Exception", "A conflicting operation occurred (Service: S3, Status Code: 409)")
    for broken in ([], [lost_answer], [conflict]):
        cloud = Cloud()
        cloud.objects[first["key"]] = text_of(PAIRS)
        # Where the mark is there and the answer is lost, or where another writes at the same time, the execution goes on.
        cloud.broken = list(broken)
        run(machine, first, cloud, "first")
        scored = cloud.calls
        assert scored == 1, scored
        run(machine, first, cloud, "second")
        assert cloud.calls == scored, "the same event twice was scored twice"
        for again in ({"key": first["key"], "sequencer": "0056"}, {"key": first["key"]}):
            run(machine, again, cloud, f"third-{len(again)}")
            scored += 1
            assert cloud.calls == scored, f"{again} is another upload, or a run by hand"
    # Whatever else S3 refuses ends the run before it costs anything.
    cloud = Cloud(Failed("S3.S3Exception", "Access Denied (Service: S3, Status Code: 403)"))
    try:
        run(machine, first, cloud, "first")
        raise AssertionError("the run must fail")
    except Failed as failed:
        assert failed.args[0] == "S3.S3Exception" and cloud.calls == 0, failed


def check(machine):
    lines = check_rows(machine)
    check_retries(machine, lines)
    check_events(machine)
    print(f"bulk: {len(lines)} pairs through the state machine and the emulator; bad lines cost themselves, errors are retried by name, an event twice costs once")


def main():
    program, emulator, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    root = MODULE.parents[2]
    machine = definition(MODULE / "bulk.asl.json")
    resource = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {"RoleArn": "arn:aws:iam::123456789012:role/bulk", "Definition": machine},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bulk.json").write_text(json.dumps({"Resources": {"Bulk": resource}}, indent=1) + "\n")
    environment = {"PATH": os.environ["PATH"], "AWS_LAMBDA_FUNCTION_TIMEOUT": "30", "MODEL_DIR": str(root / "models/demo"), "LOG_LEVEL": "error"}
    command = [emulator, "--runtime-interface-emulator-address", EMULATOR, "--runtime-api-address", RUNTIME, program]
    with open(folder / "emulator.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(int(EMULATOR.split(":")[1]), 20)
            check(machine)
        finally:
            process.terminate()
            process.wait(10)


main()
