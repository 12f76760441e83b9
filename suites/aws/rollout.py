"""Drives aws/rollout/rollout.py: the check before traffic against the program in AWS's Lambda emulator, the removal of versions against moto.

    rollout.py PROGRAM EMULATOR FOLDER

CodeDeploy is a server here that keeps what it is told.
"""

import http.server
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import types

LAMBDA, RUNTIME, CODEDEPLOY = 9150, 9151, 9152
ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = "a-key-for-the-probe-alone"
EVENT = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "h-1"}
told = []


class CodeDeploy(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        answer = json.dumps({"lifecycleEventHookExecutionId": "h-1"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/x-amz-json-1.1")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def load():
    spec = importlib.util.spec_from_file_location("rollout", ROOT / "aws/rollout/rollout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function(program, emulator, log, **environment):
    variables = {"PATH": os.environ["PATH"], "AWS_LAMBDA_FUNCTION_TIMEOUT": "30", "LOG_LEVEL": "error", "MODEL_DIR": str(ROOT / "models/demo")}
    command = [emulator, "--runtime-interface-emulator-address", f"127.0.0.1:{LAMBDA}", "--runtime-api-address", f"127.0.0.1:{RUNTIME}", program]
    process = subprocess.Popen(command, env=variables | environment, stdout=log, stderr=log)
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", LAMBDA), 1).close()
            return process
        except OSError:
            assert time.monotonic() < end, "the emulator does not listen"
            time.sleep(0.1)


def before_traffic(program, emulator, folder):
    rollout = load()
    bound = re.search(r"MAX_SCORE_BOUND: f64 = ([0-9.]+)", (ROOT / "src/cli/pack.rs").read_text())[1]
    assert float(bound) == rollout.SCORE_TOLERANCE, "the hook's tolerance is not `reranker verify`'s"
    cases = [
        # settings of the function, of the hook; the row that is published; what CodeDeploy is told; what is seen
        ({}, {"OPEN_TO_ALL": "true"}, None, "Succeeded", "puts what answers a query first"),
        ({}, {"OPEN_TO_ALL": "true"}, 0.0, "Succeeded", "gives its 1 published scores"),
        ({}, {"OPEN_TO_ALL": "true"}, 0.5, "Failed", "published is"),
        ({"API_KEYS": KEY}, {}, None, "Succeeded", "nothing was scored"),
        ({"API_KEYS": KEY}, {"key": KEY}, None, "Succeeded", "puts what answers a query first"),
        ({"API_KEYS": KEY}, {"key": "another-key-than-the-right-one"}, None, "Failed", "unauthorized"),
        ({"MODEL_DIR": "/nowhere"}, {"OPEN_TO_ALL": "true"}, None, "Failed", "not ready in"),
    ]
    rollout.READY_SECONDS = 5
    os.environ |= {
        "VERSION": "function",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{LAMBDA}",
        "AWS_ENDPOINT_URL_CODEDEPLOY": f"http://127.0.0.1:{CODEDEPLOY}",
        "AWS_MAX_ATTEMPTS": "1",
    }
    real = rollout.boto3.client
    for settings, hook, off, status, seen in cases:
        os.environ["OPEN_TO_ALL"] = hook.get("OPEN_TO_ALL", "false")
        os.environ["PROBE_KEY_SECRET"] = "keys" if "key" in hook else ""
        secrets = types.SimpleNamespace(get_secret_value=lambda SecretId: {"SecretString": hook["key"] + "\n"})
        rollout.boto3.client = lambda service: secrets if service == "secretsmanager" else real(service)
        with open(folder / "rollout.log", "a") as log:
            process = function(program, emulator, log, **settings)
            try:
                if off is not None:
                    pair = {"query": rollout.SENSIBLE["query"], "passage": rollout.SENSIBLE["passages"][0]}
                    [score] = rollout.scores("function", [pair], None)
                    row = pair | {"score": abs(score - off)}
                    rollout.published = lambda model: {"model": model, "rows": [row]}
                else:
                    rollout.published = lambda model: None
                answer = rollout.before_traffic(EVENT, None)
            finally:
                process.terminate()
                process.wait(10)
        assert answer["status"] == status and seen in answer["seen"], f"{settings} {hook}: {answer}"
        assert told.pop() == {"deploymentId": "d-1", "lifecycleEventHookExecutionId": "h-1", "status": status}
    assert load().published("BAAI/bge-reranker-v2-m3")["rows"], "the published pairs are beside the hook"
    print(f"the check before traffic: {len(cases)} versions, told to CodeDeploy as they are")


def keep_newest():
    import moto

    rollout = load()
    for name in ("AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL_CODEDEPLOY"):
        del os.environ[name]
    with moto.mock_aws():
        role = rollout.boto3.client("iam").create_role(
            RoleName="role", AssumeRolePolicyDocument=json.dumps({"Statement": [{"Principal": {"Service": "lambda.amazonaws.com"}}]})
        )["Role"]["Arn"]
        client = rollout.boto3.client("lambda")
        client.create_function(FunctionName="reranker", Role=role, PackageType="Image", Code={"ImageUri": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/r@sha256:0"})
        for number in range(6):
            client.update_function_configuration(FunctionName="reranker", Description=str(number))
            client.publish_version(FunctionName="reranker")
        client.create_alias(
            FunctionName="reranker", Name="live", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"3": 0.1}}
        )
        os.environ |= {"FUNCTION": "reranker", "KEEP_VERSIONS": "2"}
        for removed in (["2", "4"], []):
            assert rollout.keep_newest({}, None) == {"removed": removed}
        left = [version["Version"] for version in client.list_versions_by_function(FunctionName="reranker")["Versions"]]
        assert left == ["$LATEST", "1", "3", "5", "6"], left
    print("old versions: the newest stay, and those that an alias uses")


# The AWS CLI, as far as rollout.sh calls it. A deployment ends as OUTCOME says, and moves the alias where it succeeds.
CLI = """#!PYTHON
import json, os, pathlib, sys
path = pathlib.Path(os.environ["STATE"])
state = json.loads(path.read_text())
words = sys.argv[1:]
option = lambda name: words[words.index(name) + 1]
state["calls"].append(" ".join(words[:2]))
match words[1]:
    case "get-alias":
        print({"FunctionVersion": state["version"], "RoutingConfig.AdditionalVersionWeights": state["weights"]}[option("--query")])
    case "list-deployments":
        print(state["running"] or "None")
    case "stop-deployment":
        state["running"], state["weights"] = None, "None"
    case "get-deployment" if option("--query") == "deploymentInfo.status":
        print("Stopped" if option("--deployment-id") == "d-0" else os.environ["OUTCOME"])
    case "get-deployment":
        print("an alarm rose")
    case "update-alias":
        assert option("--routing-config") == "AdditionalVersionWeights={}"
        state["version"], state["weights"] = option("--function-version"), "None"
    case "create-deployment":
        revision = json.loads(option("--revision"))
        spec = json.loads(revision["appSpecContent"]["content"])
        [resource] = spec["Resources"]
        assert spec["Hooks"] == [{"BeforeAllowTraffic": "hook"}] and revision["revisionType"] == "AppSpecContent"
        assert resource["reranker"]["Properties"]["CurrentVersion"] == state["version"]
        if os.environ["OUTCOME"] == "Succeeded":
            state["version"] = resource["reranker"]["Properties"]["TargetVersion"]
        print("d-1")
path.write_text(json.dumps(state))
"""


def script(folder):
    """terraform/modules/lambda/rollout.sh, which Terraform runs."""
    cli = folder / "cli/aws"
    cli.parent.mkdir(exist_ok=True)
    cli.write_text(CLI.replace("PYTHON", sys.executable))
    cli.chmod(0o755)
    state = folder / "cli/state.json"
    fresh = {"version": "7", "weights": "None", "running": None, "calls": []}
    cases = [
        # what there is, what is asked, how a deployment ends; exit code, version after, deployments
        ({}, {"TARGET": "8"}, "Succeeded", 0, "8", 1),
        ({}, {"TARGET": "8"}, "Failed", 1, "7", 1),
        ({"version": "8"}, {"TARGET": "8"}, "Succeeded", 0, "8", 0),
        ({"version": "8"}, {"TARGET": "7", "AT_ONCE": "yes"}, "Succeeded", 0, "7", 0),
        ({"running": "d-0", "weights": "{'8': 0.1}"}, {"TARGET": "9"}, "Succeeded", 0, "9", 1),
        ({"running": "d-0", "weights": "{'8': 0.1}"}, {"TARGET": "7", "AT_ONCE": "yes"}, "Succeeded", 0, "7", 0),
    ]
    asked = {"REGION": "eu-central-1", "FUNCTION": "reranker", "ALIAS": "live", "AT_ONCE": "", "APPLICATION": "reranker", "GROUP": "live", "HOOK": "hook"}
    for there, wanted, outcome, code, version, deployments in cases:
        state.write_text(json.dumps(fresh | there))
        environment = asked | wanted | {"PATH": f"{cli.parent}:{os.environ['PATH']}", "STATE": str(state), "OUTCOME": outcome}
        command = ["bash", ROOT / "terraform/modules/lambda/rollout.sh"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        after = json.loads(state.read_text())
        seen = (done.returncode, after["version"], after["calls"].count("deploy create-deployment"), after["weights"], after["running"])
        assert seen == (code, version, deployments, "None", None), f"{there} {wanted} {outcome}: {seen}\n{done.stdout}{done.stderr}"
        assert code == 0 or "an alarm rose" in done.stderr, done.stderr
    print(f"the script that moves the alias: {len(cases)} roll-outs")


def main():
    program, emulator, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    folder.mkdir(parents=True, exist_ok=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", CODEDEPLOY), CodeDeploy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before_traffic(program, emulator, folder)
    server.shutdown()
    keep_newest()
    script(folder)


main()
