"""Types what users type, and looks at the local cloud, the record on disk and the answers afterwards.

    drive.py ACCOUNT TREE FOLDER PROGRAM PROVIDER PORT [--one-by-one] [SCENE…]

run.sh starts it, once for each ACCOUNT, a local cloud of its own: `life`, `new` with a new account's quotas, and `sam`. Without a SCENE all of an
account's are played.
"""

import functools
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import boto3
import botocore.config
import botocore.exceptions
import changes as table

ACCOUNT = sys.argv[1]
TREE, FOLDER, PROGRAM, PROVIDER = (pathlib.Path(word).resolve() for word in sys.argv[2:6])
PORT = int(sys.argv[6])
ONE_BY_ONE = "--one-by-one" in sys.argv[7:]
ENDPOINT = f"http://127.0.0.1:{PORT}"
STATE = FOLDER / "state"
HERE, THERE = "eu-central-1", "us-west-2"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("AWS_") and name not in ("MAKEFLAGS", "MAKELEVEL", "IMAGE", "MODEL")},
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    # The public addresses are answered by the front; the endpoint is called by itself.
    "https_proxy": f"http://127.0.0.1:{PORT + 1}",
    "no_proxy": "127.0.0.1",
    "SSL_CERT_FILE": str(FOLDER / "front.pem"),
    "DEPLOY_STATE": str(STATE),
    "DOCKER_IMAGES": str(FOLDER / "images"),
    # The CLI that runs already, which bin/aws asks.
    "AWS_CLI": str(FOLDER / "aws.socket"),
    # The copy of the tree is in no repository.
    "GIT_CEILING_DIRECTORIES": str(TREE.parent),
    "MODEL": "demo",
    "READY_TIMEOUT_S": "300",
}
ENVIRONMENT["REGION"] = HERE


def say(text):
    print(f"{ACCOUNT}: {text} ({time.monotonic() - BEGAN:.0f} s)", flush=True)


BEGAN = time.monotonic()
PROVIDERS = {}


def attached(region):
    """What makes Terraform use a provider that runs already. To start one, and to check its digest, takes longer than most of what it is asked."""
    if region not in PROVIDERS:
        # In the folder that Terraform names files from.
        process = subprocess.Popen([PROVIDER, "-debug"], cwd=TREE / "terraform/aws", env={**ENVIRONMENT, "AWS_REGION": region}, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        told = next(line for line in process.stdout if "TF_REATTACH_PROVIDERS=" in line)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        PROVIDERS[region] = process, told.strip().partition("=")[2].strip("'")
    return {"TF_REATTACH_PROVIDERS": PROVIDERS[region][1]}


@functools.cache
def client(service, region=HERE):
    return boto3.client(service, region_name=region, endpoint_url=ENDPOINT, aws_access_key_id="test", aws_secret_access_key="test",
                        config=botocore.config.Config(proxies={}))


def command(target, **settings):
    return ["make", "--no-print-directory", target, *(f"{name}={value}" for name, value in settings.items())]


def make(target, fails=None, **settings):
    """Its output. With FAILS, the text that it must say before it ends with an error."""
    environment = {**ENVIRONMENT, **({} if settings.get("TOOL") == "sam" else attached(settings.get("REGION", HERE)))}
    done = subprocess.run(command(target, **settings), cwd=TREE, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    told = done.stdout + done.stderr
    if (done.returncode != 0) != (fails is not None) or (fails and fails not in told):
        sys.exit(f"{command(target, **settings)} ended with {done.returncode}, expected {'failure: ' + fails if fails else 'success'}:\n{told}")
    return told


def record(region=HERE, name="reranker"):
    return json.loads((STATE / f"aws-{region}-{name}/settings.json").read_text())


def same(found, wanted, what):
    if found != wanted:
        sys.exit(f"{what}: found {found!r}, wanted {wanted!r}")


def ask(path, key, body=None, region=HERE, name="reranker"):
    """Status and answer at the public address."""
    request = urllib.request.Request(record(region, name)["url"] + path, body and json.dumps(body).encode(), {"content-type": "application/json"})
    if key:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def served(region=HERE, name="reranker"):
    """The version that callers reach, as Lambda has it."""
    functions = client("lambda", region)
    version = functions.get_alias(FunctionName=name, Name="live")["FunctionVersion"]
    return functions.get_function_configuration(FunctionName=name, Qualifier=version)


def shown_key(told):
    return next(line for line in told.splitlines() if line.startswith("KEY=")).removeprefix("KEY=")


def inventory(region):
    """Everything there is that can cost money or stand in the way of a next deployment."""
    keys = [key["KeyId"] for key in client("kms", region).list_keys()["Keys"]]
    alive = [key for key in keys if client("kms", region).describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"]
    return {
        "functions": [each["FunctionName"] for each in client("lambda", region).list_functions()["Functions"] if each["PackageType"] == "Image"],
        "helpers": [each["FunctionName"] for each in client("lambda", region).list_functions()["Functions"] if each["PackageType"] != "Image"],
        "apis": [each["Name"] for each in client("apigatewayv2", region).get_apis()["Items"]],
        "repositories": [each["repositoryName"] for each in client("ecr", region).describe_repositories()["repositories"]],
        "log groups": [each["logGroupName"] for each in client("logs", region).describe_log_groups()["logGroups"]],
        "secrets": [each["Name"] for each in client("secretsmanager", region).list_secrets()["SecretList"]],
        "alarms": [each["AlarmName"] for each in client("cloudwatch", region).describe_alarms()["MetricAlarms"]],
        "buckets": [each["Name"] for each in client("s3", region).list_buckets()["Buckets"] if each["Name"].endswith(region)],
        "machines": [each["name"] for each in client("stepfunctions", region).list_state_machines()["stateMachines"]],
        "roles": [each["RoleName"] for each in client("iam", region).list_roles()["Roles"] if region in each["RoleName"]],
        "policies": [each["PolicyName"] for each in client("iam", region).list_policies(Scope="Local")["Policies"] if region in each["PolicyName"]],
        "keys": alive,
    }


# ---- scenes: each begins where the one before has ended

def plan():
    """Without credentials and without a deployment."""
    told = subprocess.run(command("deploy-aws", PLAN=1, SET="memory_mb=4000"), cwd=TREE, capture_output=True, text=True,
                          env={**{name: value for name, value in ENVIRONMENT.items() if name == "AWS_CLI" or not name.startswith("AWS_")}, **attached(HERE)})
    same(told.returncode, 0, told.stdout + told.stderr)
    for word in ('"aws_lambda_function"', '"aws_apigatewayv2_api"', "= 4000"):
        if word not in told.stdout:
            sys.exit(f"the plan lacks {word}:\n{told.stdout}")
    same(any(inventory(HERE).values()), False, "a plan makes something")


def refused():
    """What must be refused before anything is made, with all that is missing at once."""
    make("deploy-aws", fails="does not begin with NAME=VALUE", SET="memory_mb")
    make("deploy-aws", fails="is no JSON", SET='environment={"A":1')
    make("deploy-aws", fails="are kept by these commands themselves", SET="image_digest=sha256:0")
    make("deploy-aws", fails="name it by its digest", IMAGE="reranker:latest")
    make("deploy-aws", fails="MODEL_REVISION", MODEL="owner/unpinned")
    make("deploy-aws", fails="3 to 24 small letters", DEPLOYMENT="Re_ranker")
    make("deploy-aws", fails="terraform or sam", TOOL="cdk")
    make("deploy-aws", fails="provisioned_concurrency=2000", SET="start=provisioned-concurrency provisioned_concurrency=2000")
    make("rollback-aws", fails="there is no deployment reranker")
    bare = {**ENVIRONMENT, "PATH": "/usr/bin:/bin"}
    told = subprocess.run([sys.executable, "deploy/deploy.py", "deploy", "aws"], cwd=TREE, env=bare, capture_output=True, text=True)
    missing = [line for line in told.stderr.splitlines() if line.startswith("- ")]
    same((told.returncode, len(missing) >= 2), (1, True), f"tools that are missing: {told.stderr}")
    # A proof has a price for all that it may make.
    sys.path.insert(0, str(TREE / "deploy"))
    import proving
    for folders, known in (("aws modules/lambda", proving.AWS_MONTH.keys() | proving.AWS_FREE), ("azure modules/container-app", proving.AZURE_DAY.keys() | proving.AZURE_FREE)):
        kinds = {line.split('"')[1] for folder in folders.split() for path in (TREE / "terraform" / folder).glob("*.tf")
                 for line in path.read_text().splitlines() if line.startswith("resource ")}
        same(kinds - known, proving.UNPRICED & kinds, f"kinds of {folders} without a price")
    make("prove-azure", fails="MAX_DOLLARS")
    same(any(inventory(HERE).values()), False, "a refused command makes something")


def killed():
    """Terraform and the command are killed in the middle of an apply; a second command is locked out as long as Terraform is at work."""
    log = FOLDER / "killed.log"
    process = subprocess.Popen(command("deploy-aws"), cwd=TREE, env={**ENVIRONMENT, **attached(HERE)}, stdout=log.open("w"), stderr=subprocess.STDOUT, start_new_session=True)
    ended = time.monotonic() + 1800
    # The function is in the cloud, and not yet in the state: its making takes Terraform a while.
    while not inventory_of_images():
        if process.poll() is not None or time.monotonic() > ended:
            sys.exit(f"the deployment ended before it could be killed:\n{log.read_text()}")
        time.sleep(0.1)
    make("deploy-aws", fails="another command is at work")
    children = [int(path.name) for path in pathlib.Path("/proc").glob("[0-9]*") if works_for_us(path)]
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
    # Of these processes the provider was one.
    PROVIDERS.pop(HERE)[0].wait()
    same(record().get("applying"), True, "the record knows that an apply did not end")
    # Terraform's own lock is let go by the kernel, too.
    say(f"killed with {len(children)} processes of Terraform")


def inventory_of_images():
    return [each for each in client("lambda").list_functions()["Functions"] if each["PackageType"] == "Image"]


def works_for_us(path):
    try:
        return b"terraform" in (path / "cmdline").read_bytes() and f"DEPLOY_STATE={STATE}".encode() in (path / "environ").read_bytes()
    except OSError:
        return False


def deploy():
    told = make("deploy-aws")
    global KEY
    KEY = shown_key(told)
    for words in ("published pairs have their scores", "per 1,000 requests", "make destroy-aws", "x-reranker-demo"):
        if words not in told:
            sys.exit(f"the deployment does not say {words!r}:\n{told}")
    there = inventory(HERE)
    for kind in ("functions", "apis", "repositories", "secrets", "keys"):
        same(len(there[kind]), 1, f"{kind} after a killed and a finished deployment: {there[kind]}")
    same(served()["MemorySize"], 3538, "memory of the demo")
    same(ask("/rerank", None, {"query": "a", "passage": "b"})[0], 401, "a call without key")
    text = "".join(path.read_text(errors="replace") for path in STATE.rglob("*") if path.is_file() and ".terraform/" not in str(path))
    same(KEY in text, False, "the key is on disk")
    path = STATE / f"aws-{HERE}-reranker/settings.json"
    same(stat.S_IMODE(path.stat().st_mode), 0o600, "mode of the record")


def again():
    """The same command once more changes nothing, shows no key, and builds nothing."""
    before = (served()["Version"], record(), (FOLDER / "images.log").read_text().count("push"))
    told = make("deploy-aws")
    if "0 added, 0 changed, 0 destroyed" not in told or "KEY=" in told:
        sys.exit(f"the same deployment again is not the same:\n{told}")
    same((served()["Version"], record(), (FOLDER / "images.log").read_text().count("push")), before, "the same deployment again")
    if "no changes" not in make("deploy-aws", PLAN=1):
        sys.exit("PLAN=1 of what is deployed has changes")


def release():
    """Another image, by its digest: copied once, served, and held to."""
    other = "registry.example/reranker@sha256:" + "5" * 64
    before = served()["Version"]
    make("deploy-aws", IMAGE=other)
    same(int(served()["Version"]) > int(before), True, "another image is another version")
    same(record()["image"]["source"], other, "the record names where it came from")
    pushes = (FOLDER / "images.log").read_text().count("push")
    make("deploy-aws", IMAGE=other)
    same((FOLDER / "images.log").read_text().count("push"), pushes, "pushes of the same image")
    global BEFORE, AFTER
    BEFORE, AFTER = before, served()["Version"]


def roll_back():
    """To the version before, and there to stay while nothing changes; the next change goes to the newest."""
    other = record()["image"]["source"]
    make("rollback-aws", fails="has no such version", VERSION=99)
    make("rollback-aws")
    same(served()["Version"], BEFORE, "the version that serves after going back")
    make("deploy-aws", IMAGE=other)
    same(served()["Version"], BEFORE, "the same deployment again after going back")
    make("deploy-aws", IMAGE=other, SET="max_length=256")
    same(int(served()["Version"]) > int(AFTER), True, "a change goes to the newest version")


def keys():
    """Old and new hold together, then the new one alone."""
    old = client("secretsmanager").get_secret_value(SecretId="reranker/api-key")["SecretString"]
    new = shown_key(make("rotate-key-aws"))
    same((ask("/info", old)[0], ask("/info", new)[0]), (200, 200), "old and new key while both hold")
    make("rotate-key-aws", RETIRE=1)
    same((ask("/info", old)[0], ask("/info", new)[0]), (401, 200), "old and new key afterwards")


def changes():
    """Every variable on the running stack: applied, seen in the cloud, and nothing left to change. In batches, or with --one-by-one each by itself."""
    known = {line.split('"')[1] for line in (TREE / "terraform/aws/variables.tf").read_text().splitlines() if line.startswith("variable ")}
    rows = table.rows(client, served)
    covered = {name for _, values, _, _ in rows for name in values}
    same(sorted(covered | table.ELSEWHERE.keys()), sorted(known), "variables with a row in changes.py")
    make("deploy-aws", fails="kms_key_arn", SET="kms_key_arn=arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab")
    batches = [[row] for row in rows] if ONE_BY_ONE else [[row for row in rows if row[0] == batch] for batch in range(1, rows[-1][0] + 1)]
    values = {}
    for batch in batches:
        for _, asked, look, wanted in batch:
            same(seen(look) == wanted, False, f"whether the cloud has {asked} before it is asked for")
            values |= asked
        terraform("apply", "-auto-approve", values=values)
        for _, asked, look, wanted in batch:
            same(look(), wanted, f"what the cloud has after {asked}")
        if ONE_BY_ONE or batch is batches[-1]:
            terraform("plan", "-detailed-exitcode", values=values)
        say(f"   {len(batch)} changed: {', '.join(name for _, asked, _, _ in batch for name in asked)}")
    # Back to what it was, but for what is the most work to remove.
    make("deploy-aws", SET='bulk=true create_model_bucket=true tags={"team":"search"}')
    same((served()["MemorySize"], served()["Architectures"], served()["Environment"]["Variables"].get("MODEL_DIR")), (3538, ["x86_64"], None), "what was changed")
    client("secretsmanager").delete_secret(SecretId="callers", ForceDeleteWithoutRecovery=True)


def seen(look):
    """What the cloud has; nothing where it does not know the thing yet."""
    try:
        return look()
    except (KeyError, IndexError, StopIteration, botocore.exceptions.ClientError):
        return None


def terraform(action, *words, values):
    """As an operator types it beside the record's own values. With -detailed-exitcode, any change is a failure."""
    folder = STATE / f"aws-{HERE}-reranker"
    (FOLDER / "changes.tfvars.json").write_text(json.dumps(values))
    files = [f"-var-file={folder / 'terraform.tfvars.json'}", f"-var-file={FOLDER / 'changes.tfvars.json'}"]
    environment = {**ENVIRONMENT, **attached(HERE), "AWS_REGION": HERE, "TF_DATA_DIR": str(folder / ".terraform"), "TF_IN_AUTOMATION": "1"}
    whole = ["terraform", f"-chdir={TREE / 'terraform/aws'}", action, "-input=false", "-no-color", f"-state={folder / 'terraform.tfstate'}", *files, *words]
    done = subprocess.run(whole, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{action} of {values} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def second_region():
    """The same name in another region, beside the first: made, proven, measured and removed by one command, within its bound. The first stays."""
    first, before = inventory(HERE), served()["Version"]
    make("prove-aws", fails="MAX_DOLLARS", REGION=THERE)
    told = make("prove-aws", fails="is more than MAX_DOLLARS", REGION=THERE, MAX_DOLLARS="0.05")
    same("aws_kms_key" in told and any(inventory(THERE)[kind] for kind in ("functions", "apis", "repositories", "secrets")), False, "what a refused proof makes")
    told = make("prove-aws", REGION=THERE, DEPLOYMENT="reranker", MAX_DOLLARS=5)
    [path] = (TREE / "run/prove").glob("*.json")
    proof = json.loads(path.read_text())
    same([step["name"] for step in proof["steps"]], ["deploy", "smoke", "cold starts", "processor", "change", "restores", "roll back", "rotate the key", "destroy", "look for what is left"], "steps")
    same((proof["outcome"], proof["left"], all(step["ok"] for step in proof["steps"])), ("proven", [], True), "outcome")
    same(0 < proof["bound_dollars"] < 5, True, f"the bound {proof['bound_dollars']}")
    starts = [start["init_ms"] for start in proof["cold_starts"]] + [start["restore_ms"] for start in proof["restores"]]
    same(len(starts) >= 4 and all(ms > 0 for ms in starts), True, f"starts {starts}")
    same("instruction sets" in proof["processor"], True, f"the processor {proof['processor']}")
    same((inventory(HERE), served()["Version"]), (first, before), "the deployment in the first region")
    same(ask("/live", None)[0], 200, "the first region's answer")
    path.unlink()


def destroy():
    """With images in the registry and objects in the buckets; and once more, where there is nothing."""
    for bucket in inventory(HERE)["buckets"]:
        client("s3").put_object(Bucket=bucket, Key="kept", Body=b"kept")
    told = make("destroy-aws")
    same({kind: found for kind, found in inventory(HERE).items() if found}, {}, f"what is left:\n{told}")
    same((STATE / f"aws-{HERE}-reranker").exists(), False, "the record")
    make("destroy-aws")


# ---- a new account: nothing is there, and AWS gives little

QUOTAS = {"life": {}, "sam": {}, "new": {"CLOUD_CONCURRENCY": "10", "CLOUD_LARGEST_MB": "3008", "CLOUD_SNAPSHOTS": "no"}}


def new_account():
    """10 instances of 3,008 MB, and no snapshots. What is refused is told, and the next command goes on from there. What fails in a proof is removed, too."""
    empty = inventory(HERE)
    same(any(empty.values()), False, "what is in a new account")
    make("deploy-aws", fails="reserved_concurrency=11", SET="reserved_concurrency=11")
    make("deploy-aws", fails="SET=memory_mb=3008", SET="memory_mb=4000")
    make("deploy-aws", fails="SnapStart is not available", UNSET="memory_mb", SET="start=snap-start")
    told = make("deploy-aws", UNSET="start")
    same((served()["MemorySize"], "10 instances" in told), (3008, True), "memory in a new account")
    make("destroy-aws")
    same(inventory(HERE), empty, "what is left in the account")


def failed_proof():
    """The program answers as the demo model: so this one fails after everything is made."""
    make("prove-aws", fails="MODEL is BAAI/bge-reranker-v2-m3", MODEL="BAAI/bge-reranker-v2-m3", MAX_DOLLARS=5)
    [path] = (TREE / "run/prove").glob("*.json")
    proof = json.loads(path.read_text())
    same((proof["outcome"], proof["left"]), ("failed", []), "a proof that fails")
    same(any(inventory(HERE).values()), False, "what a proof leaves")


# ---- SAM's stack, under a name of its own; its first deployment makes SAM's bucket

SAM = {"TOOL": "sam", "DEPLOYMENT": "by-sam"}


def image(number):
    """One that is in the account's registry."""
    registry = client("ecr")
    if not registry.describe_repositories()["repositories"]:
        registry.create_repository(repositoryName="shipped")
    content = {"size": 1, "digest": "sha256:" + str(number) * 64}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": [content],
                "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **content}}
    made = registry.put_image(repositoryName="shipped", imageTag=f"release-{number}", imageManifest=json.dumps(manifest))["image"]
    return f"123456789012.dkr.ecr.{HERE}.amazonaws.com/shipped@{made['imageId']['imageDigest']}"


def by_sam():
    return served(name="by-sam")


def versions():
    pages = client("lambda").get_paginator("list_versions_by_function").paginate(FunctionName="by-sam")
    return [each["Version"] for page in pages for each in page["Versions"] if each["Version"] != "$LATEST"]


def sam():
    """Deployed, changed, given another key, taken back, and changed once more."""
    first, second = {**SAM, "IMAGE": image(1)}, {**SAM, "IMAGE": image(2)}
    told = make("deploy-aws", **first)
    if "published pairs have their scores" not in told:
        sys.exit(f"the deployment by SAM does not score:\n{told}")
    same((by_sam()["Version"], by_sam()["MemorySize"]), ("1", 3538), "what serves")
    make("deploy-aws", **second, SET="max_length=256")
    same((by_sam()["Version"], by_sam()["Environment"]["Variables"]["MAX_LENGTH"], versions()), ("2", "256", ["1", "2"]), "a change is a version, and the one before stays")
    new = shown_key(make("rotate-key-aws", **second))
    serves = by_sam()["Version"]
    make("rollback-aws", fails="none that was deployed before", **SAM, VERSION=99)
    make("rollback-aws", **SAM, VERSION=1)
    same((int(by_sam()["Version"]) > int(serves), by_sam()["Environment"]["Variables"]["MAX_LENGTH"]), (True, "512"), "what serves after going back")
    same(ask("/info", new, name="by-sam")[0], 200, "a key that is newer than what was gone back to")
    back = by_sam()["Version"]
    make("deploy-aws", **second)
    same(by_sam()["Version"], back, "the same deployment again after going back")
    # A hand on the alias is told of before CodeDeploy refuses.
    client("lambda").update_alias(FunctionName="by-sam", Name="live", FunctionVersion="1")
    make("deploy-aws", fails="CodeDeploy refuses", **second, SET="log_level=debug", UNSET="max_length")
    client("lambda").update_alias(FunctionName="by-sam", Name="live", FunctionVersion=back)
    make("deploy-aws", **second, SET="log_level=debug", UNSET="max_length")
    found = by_sam()["Environment"]["Variables"]
    same((found["LOG_LEVEL"], found["MAX_LENGTH"]), ("debug", "512"), "the next change, and what was unset")


def cancelled():
    """An update that is under way is taken back by CloudFormation."""
    serves = by_sam()["Version"]
    hold("cancelled")
    change_stack({"MaxLength": "99"}, waits=False)
    make("rollback-aws", **SAM)
    hold("never")
    same((by_sam()["Version"], stack_status()), (serves, "UPDATE_ROLLBACK_COMPLETE"), "what serves after an update was taken back")


def hold(until):
    """Not of AWS: updates of stacks wait from here on."""
    signed = {"authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{HERE}/cloudformation/aws4_request"}
    request = urllib.request.Request(ENDPOINT, f"Action=Hold&Until={until}".encode(), signed)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()


def stack_status():
    return client("cloudformation").describe_stacks(StackName="by-sam")["Stacks"][0]["StackStatus"]


def change_stack(change, fails=None, waits=True):
    """What `sam deploy --parameter-overrides` asks of CloudFormation: CHANGE, and everything else as it was."""
    formation = client("cloudformation")
    stack = formation.describe_stacks(StackName="by-sam")["Stacks"][0]
    parameters = [{"ParameterKey": each["ParameterKey"], **({"ParameterValue": change[each["ParameterKey"]]} if each["ParameterKey"] in change else {"UsePreviousValue": True})}
                  for each in stack["Parameters"]]
    text = formation.get_template(StackName="by-sam")["TemplateBody"]
    asked = formation.create_change_set(StackName="by-sam", ChangeSetName="change", Parameters=parameters, Capabilities=["CAPABILITY_IAM"],
                                        TemplateBody=text if isinstance(text, str) else json.dumps(text))
    formation.execute_change_set(ChangeSetName=asked["Id"], StackName="by-sam")
    if not waits:
        return
    ended = stack_status()
    reason = next((each["ResourceStatusReason"] for each in formation.describe_stack_events(StackName="by-sam")["StackEvents"] if each.get("ResourceStatusReason")), "")
    same(ended, "UPDATE_ROLLBACK_COMPLETE" if fails else "UPDATE_COMPLETE", f"the stack after {change}: {reason}")
    if fails and fails not in reason:
        sys.exit(f"{change} failed by {reason!r}, and not by {fails!r}")


def sam_parameters():
    """Every parameter on the running stack, one by one; what concerns the function is served by a version of its own, and all versions stay."""
    known = {each["ParameterKey"] for each in client("cloudformation").describe_stacks(StackName="by-sam")["Stacks"][0]["Parameters"]}
    covered = {name for change, _ in table.SAM_ROWS for name in change}
    same(sorted(covered), sorted(known), "parameters with a row in changes.py")
    client("secretsmanager").create_secret(Name="callers", SecretString="sha256:" + "0" * 64)
    secret = client("secretsmanager").describe_secret(SecretId="callers")
    for change, version in table.SAM_ROWS:
        change = {name: {"SECRET": secret["ARN"], "VERSION": next(iter(secret["VersionIdsToStages"]))}.get(value, value) for name, value in change.items()}
        before = versions()
        change_stack(change)
        same(len(versions()) - len(before), int(version), f"versions that {change} publishes")
        same(set(before) <= set(versions()), True, f"versions that {change} removes")
        same(by_sam()["Version"], versions()[-1], f"the version that serves after {change}")
    # That CodeDeploy's rule holds here as in AWS.
    client("lambda").update_alias(FunctionName="by-sam", Name="live", FunctionVersion="1")
    change_stack({"MaxLength": "77"}, fails="does not match the current version in AppSpec")
    client("lambda").update_alias(FunctionName="by-sam", Name="live", FunctionVersion=versions()[-1])
    client("secretsmanager").delete_secret(SecretId="callers", ForceDeleteWithoutRecovery=True)


def sam_destroy():
    make("destroy-aws", **SAM)
    left = inventory(HERE)
    same({kind: found for kind, found in left.items() if found and kind != "buckets"}, {"repositories": ["shipped"]}, "what SAM leaves")


CLOUD = None


def start_cloud():
    global CLOUD
    words = [sys.executable, str(pathlib.Path(__file__).with_name("cloud.py")), str(PORT), str(PORT + 1), str(FOLDER / "both.pem"), str(PROGRAM)]
    environment = {**os.environ, "MOTO_LAMBDA_STUB_ECR": "false", **QUOTAS[ACCOUNT]}
    environment.pop("AWS_CA_BUNDLE", None)
    CLOUD = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=open(FOLDER / "cloud.log", "a"))
    for _ in range(600):
        try:
            client("sts").get_caller_identity()
            return
        except Exception:
            time.sleep(0.1)
    sys.exit("the local cloud does not start; its log is cloud.log")


SCENES = {
    "life": [plan, refused, killed, deploy, again, release, roll_back, keys, second_region, changes, destroy],
    "new": [new_account, failed_proof],
    "sam": [sam, cancelled, sam_parameters, sam_destroy],
}


def main():
    # So that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    os.environ.update({name: ENVIRONMENT[name] for name in ("https_proxy", "no_proxy", "SSL_CERT_FILE")})
    wanted = [word for word in sys.argv[7:] if word != "--one-by-one"]
    scenes = [scene for scene in SCENES[ACCOUNT] if not wanted or scene.__name__ in wanted]
    if not scenes:
        return
    cli = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("aws_cli.py"), ENVIRONMENT["AWS_CLI"]], stdout=subprocess.DEVNULL)
    try:
        start_cloud()
        for scene in scenes:
            say(f"-- {scene.__name__}")
            scene()
    finally:
        for process in (CLOUD, cli, *(process for process, _ in PROVIDERS.values())):
            if process:
                process.terminate()
                process.wait()
    say(f"{len(scenes)} passed, 0 failed")


main()
