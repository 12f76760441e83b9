"""Runs the bulk state machine over a file of pairs, with AWS's own Lambda emulator and the program as its function.

    bulk.py PROGRAM EMULATOR FOLDER     FOLDER gets the definition as a CloudFormation template, for cfn-lint

Of the language only what the definition uses is here; anything else is an error. Expressions are evaluated by a JSONata engine.
What a real run adds (the reading and writing of S3, limits, parallel batches) is not seen.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import jsonata

EMULATOR, RUNTIME = "127.0.0.1:9140", "127.0.0.1:9141"
SETTINGS = {
    "partition": "aws",
    "bucket": "reranker-bulk",
    "function": "arn:aws:lambda:eu-central-1:123456789012:function:reranker-bulk:live",
    "batch_pairs": "2",
    "batch_bytes": "150000",
    "concurrency": "5",
    "tolerated_failures": "1",
}
PAIRS = [
    {"id": "panda", "query": "what do giant pandas eat?", "passage": "Bamboo shoots and leaves make up nearly all of the panda's diet."},
    {"id": 17, "query": "what do giant pandas eat?", "passage": "Our offices are open \"from nine to five\".\nExcept on Sundays: 🐼"},
    {"id": "last", "query": "how long is the Nile?", "passage": "The Nile is about 6,650 km long."},
]
MOST_BYTES = 262_144  # of a state's input or output


def definition(path):
    """As Terraform's templatefile makes it."""
    text = path.read_text()
    for name, value in SETTINGS.items():
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


class Refused(Exception):
    pass


def invoke(payload):
    request = urllib.request.Request(
        f"http://{EMULATOR}/2015-03-31/functions/function/invocations", json.dumps(payload).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return {"Payload": json.loads(response.read()), "StatusCode": response.status}


def run(machine, value):
    """One execution of a batch's workflow."""
    states = {"context": {"Execution": {"Name": "batch"}}}
    name = machine["StartAt"]
    while True:
        state = machine["States"][name]
        assert len(json.dumps(value)) <= MOST_BYTES
        states["input"] = value
        match state["Type"]:
            case "Task":
                assert state["Resource"] == "arn:aws:states:::lambda:invoke"
                arguments = evaluate(state["Arguments"], states)
                assert arguments["FunctionName"] == SETTINGS["function"]
                value = evaluate(state["Output"], states | {"result": invoke(arguments["Payload"])})
            case "Choice":
                taken = [choice["Next"] for choice in state["Choices"] if evaluate(choice["Condition"], states)]
                name = (taken or [state["Default"]])[0]
                continue
            case "Pass":
                value = evaluate(state["Output"], states)
            case "Fail":
                raise Refused(evaluate(state["Error"], states), evaluate(state["Cause"], states))
            case other:
                raise ValueError(f"a state of type {other}, which this check does not know")
        if state.get("End"):
            return value
        name = state["Next"]


def check(machine):
    batches = machine["States"]["Every pair"]
    workflow = batches["ItemProcessor"]
    size = batches["ItemBatcher"]["MaxItemsPerBatch"]
    # As the map cuts the file, and as FLATTEN joins the results.
    lines = [row for start in range(0, len(PAIRS), size) for row in run(workflow, {"Items": PAIRS[start : start + size]})]
    assert [row["id"] for row in lines] == [pair["id"] for pair in PAIRS], lines
    assert all(set(row) == {"id", "score", "logit", "tokens", "truncated"} for row in lines), lines
    assert all(0 <= row["score"] <= 1 and row["tokens"] > 0 for row in lines), lines
    assert lines[0]["score"] > lines[1]["score"], f"bamboo must come before office hours: {lines}"

    try:
        run(workflow, {"Items": [PAIRS[0], {"id": "empty", "query": "", "passage": "text"}]})
        raise AssertionError("an empty query must be refused")
    except Refused as refused:
        error, cause = refused.args
        assert error == "Reranker.422" and "empty_query" in cause, refused.args

    [state] = machine["States"].values()
    key = {"input": {"key": "in/2026/pairs.jsonl"}}
    assert evaluate(state["ItemReader"]["Arguments"], key) == {"Bucket": "reranker-bulk", "Key": "in/2026/pairs.jsonl"}
    assert evaluate(state["ResultWriter"]["Arguments"], key) == {"Bucket": "reranker-bulk", "Prefix": "out/2026/pairs.jsonl"}
    print(f"bulk: {len(lines)} pairs through the state machine and the emulator, an empty query refused")


def main():
    program, emulator, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    root = pathlib.Path(__file__).resolve().parents[2]
    machine = definition(root / "terraform/modules/lambda-bulk/bulk.asl.json")
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
