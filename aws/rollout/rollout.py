"""What looks at a version before callers reach it, and removes old ones afterwards. Runs as a Lambda function with AWS's own Python.

before_traffic  CodeDeploy's hook: the version in VERSION must be ready and score as published, else the deployment is rolled back.
keep_newest     on a schedule: of FUNCTION's versions keeps the newest KEEP_VERSIONS and what the alias uses. SnapStart bills every version.
"""

import json
import math
import os
import pathlib
import time

import boto3

# How far an int8 score may be from a published one in f16, as `reranker verify` has it.
SCORE_TOLERANCE = 0.03
READY_SECONDS = 120
SENSIBLE = {
    "query": "what do giant pandas eat?",
    "passages": ["Bamboo shoots and leaves make up nearly all of the panda's diet.", "Our offices are open from nine to five."],
}


class Wrong(Exception):
    pass


def call(function, path, body=None, key=None):
    """As the HTTP API calls it, so that a refusal has a status."""
    method = "GET" if body is None else "POST"
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {}),
        "requestContext": {"stage": "$default", "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "rollout"}},
        "body": "" if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }
    answer = boto3.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event).encode())
    value = json.loads(answer["Payload"].read() or b"null")
    if "FunctionError" in answer or not isinstance(value, dict) or "statusCode" not in value:
        raise Wrong(f"{path}: {value}")
    if value["statusCode"] != 200:
        raise Wrong(f"{path}: {value['statusCode']}: {value.get('body')}")
    return json.loads(value["body"])


def wait_until_ready(function):
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            return call(function, "/ready")
        except Exception as error:  # refused, crashed, throttled: all may pass
            if time.monotonic() > end:
                raise Wrong(f"not ready in {READY_SECONDS} s: {error}") from error
            time.sleep(1)


def scores(function, pairs, key):
    results = call(function, "/rerank/batch", {"pairs": pairs}, key)["results"]
    if len(results) != len(pairs):
        raise Wrong(f"{len(results)} scores for {len(pairs)} pairs")
    return [result["score"] for result in results]


def published(model):
    text = pathlib.Path(__file__).with_name("published.json").read_text()
    return next((entry for entry in json.loads(text) if entry["model"] == model), None)


def probability(row):
    return row["score"] if "score" in row else 1 / (1 + math.exp(-row["logit"]))


def check(function, key, open_to_all):
    """What was seen, in words; an exception says what is wrong."""
    wait_until_ready(function)
    if not key and not open_to_all:
        return "ready; nothing was scored, as PROBE_KEY_SECRET names no key"
    model = call(function, "/info", key=key)["model"]
    pandas = [{"query": SENSIBLE["query"], "passage": passage} for passage in SENSIBLE["passages"]]
    right, wrong = scores(function, pandas, key)
    if not right > wrong:
        raise Wrong(f"{model}: bamboo got {right:.4f}, office hours {wrong:.4f}")
    entry = published(model)
    if entry is None:
        return f"ready; {model} puts what answers a query first; no scores of it are published"
    rows = entry["rows"]
    found = scores(function, [{"query": row["query"], "passage": row["passage"]} for row in rows], key)
    for row, score in zip(rows, found):
        if not abs(score - probability(row)) <= SCORE_TOLERANCE:
            raise Wrong(f"{model}: {row['query']!r} / {row['passage'][:40]!r} got {score:.4f}, published is {probability(row):.4f}")
    return f"ready; {model} gives its {len(rows)} published scores"


def before_traffic(event, context):
    secret = os.environ.get("PROBE_KEY_SECRET")
    try:
        key = boto3.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"].strip() if secret else None
        said, status = check(os.environ["VERSION"], key, os.environ.get("OPEN_TO_ALL") == "true"), "Succeeded"
    except Exception as error:  # a hook that says nothing holds the deployment up for an hour
        said, status = f"{type(error).__name__}: {error}", "Failed"
    print(json.dumps({"message": "checked before traffic", "version": os.environ["VERSION"], "status": status, "seen": said}))
    boto3.client("codedeploy").put_lifecycle_event_hook_execution_status(
        deploymentId=event["DeploymentId"], lifecycleEventHookExecutionId=event["LifecycleEventHookExecutionId"], status=status
    )
    return {"status": status, "seen": said}


def keep_newest(event, context):
    function, keep = os.environ["FUNCTION"], int(os.environ["KEEP_VERSIONS"])
    client = boto3.client("lambda")
    pages = client.get_paginator("list_versions_by_function").paginate(FunctionName=function)
    versions = [entry["Version"] for page in pages for entry in page["Versions"] if entry["Version"] != "$LATEST"]
    used = set()
    for page in client.get_paginator("list_aliases").paginate(FunctionName=function):
        for alias in page["Aliases"]:
            used |= {alias["FunctionVersion"], *alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {})}
    old = sorted(versions, key=int)[:-keep]
    removed = [version for version in old if version not in used]
    for version in removed:
        client.delete_function(FunctionName=function, Qualifier=version)
    print(json.dumps({"message": "old versions removed", "removed": removed, "kept": sorted(set(versions) - set(removed), key=int)}))
    return {"removed": removed}
