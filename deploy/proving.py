"""The whole life of a deployment on the caller's own account: made, measured, changed, taken back and removed, for at most MAX_DOLLARS.

The bound is computed from the plan before anything is made. Whatever fails, the deployment is removed at the end. Nothing here is kept of the
account but times, prices and the processor: run/prove/….json.
"""

import base64
import contextlib
import datetime
import json
import os
import re
import signal
import time

import aws
import azure
from common import ROOT, Failed, Stop, asked, at_work, digest_of, model_asked, say, step

NAME = "reranker-prove"
MINUTES = 60
STARTS, RESTORES = 3, 2
TRIES = 3
# Clouds bill some of what is there by the hour and some by the day.
DAY_OF_A_MONTH = 1 / 30

# Prices of us-east-1, November 2026. What is planned and in neither table is refused: nobody knows what it costs.
AWS_MONTH = {"aws_kms_key": 1.00, "aws_cloudwatch_metric_alarm": 0.10, "aws_cloudwatch_log_metric_filter": 0.30, "aws_cloudwatch_dashboard": 3.00}
AWS_FREE = {
    "aws_apigatewayv2_api", "aws_apigatewayv2_integration", "aws_apigatewayv2_route", "aws_apigatewayv2_stage", "aws_cloudwatch_event_rule",
    "aws_cloudwatch_event_target", "aws_cloudwatch_log_group", "aws_ecr_lifecycle_policy", "aws_ecr_repository", "aws_ecr_repository_policy",
    "aws_iam_policy", "aws_iam_role", "aws_iam_role_policy", "aws_kms_alias", "aws_lambda_alias", "aws_lambda_function",
    "aws_lambda_function_url", "aws_lambda_permission",
}
SECRET_MONTH, IMAGE_GB_MONTH, IMAGE_GB = 0.40, 0.10, 3
LOG_GB, LOGS = 0.57, 0.1
# A snapshot is paid for three hours at least. The change and the key make one each.
SNAPSHOT_GB_SECOND, SNAPSHOT_HOURS, RESTORE_GB = 0.0000015046, 3, 0.00014
SNAPSHOTS = RESTORES + 2

AZURE_DAY = {"azurerm_container_registry": 0.167, "azurerm_monitor_metric_alert": 0.004, "azurerm_monitor_scheduled_query_rules_alert_v2": 0.05}
AZURE_FREE = {
    "azapi_resource", "azurerm_application_insights_workbook", "azurerm_container_app", "azurerm_container_app_environment",
    "azurerm_log_analytics_workspace", "azurerm_monitor_action_group", "azurerm_monitor_diagnostic_setting", "azurerm_resource_group",
    "azurerm_role_assignment", "azurerm_user_assigned_identity", "random_string",
}
AZURE_LOG_GB = 2.99
# Only by a setting, and then refused: instances that are billed while nobody calls, and what moves calls in minutes.
UNPRICED = {"aws_apigatewayv2_authorizer", "aws_codedeploy_app", "aws_codedeploy_deployment_group", "aws_lambda_provisioned_concurrency_config", "terraform_data"}


def bound(planned, monthly, free, days, rest):
    """[(what, dollars)] at most, of a plan's changes."""
    counts = {}
    for change in planned:
        if change["mode"] == "managed":
            counts[change["type"]] = counts.get(change["type"], 0) + 1
    unknown = sorted(counts.keys() - monthly.keys() - free)
    if unknown:
        raise Stop(f"nobody has written into deploy/proving.py what {', '.join(unknown)} costs, so there is no bound: leave it out of SET")
    rows = [(f"{count} × {kind}, a day of each", count * monthly[kind] * days) for kind, count in sorted(counts.items()) if kind in monthly]
    return rows + rest


class OnAws:
    SETTINGS = {}
    CHANGE = "start=snap-start"

    def __init__(self, deployment, model, revision):
        if asked("TOOL") == "sam":
            raise Stop("TOOL=sam: what Terraform deploys is proven; for SAM's stack see docs/guides/deploying.md")
        self.cloud = aws.Aws(deployment, model, revision)
        self.deployment = deployment

    def lost(self):
        return self.cloud.key is not None

    def bound(self, minutes):
        cloud = self.cloud
        image = self.deployment.record.get("image", {}).get("digest", aws.ANY_DIGEST)
        cloud.terraform.write({**cloud.variables(), "image_digest": image, "api_key_hashes": [digest_of("any")]})
        cloud.terraform.init()
        gb = cloud.settings.get("memory_mb", 3538) / 1024
        # One call after the other: together they take no longer than the proof.
        computing = 60 * minutes * gb * aws.PRICE_GB_SECOND["x86_64"]
        snapshots = SNAPSHOTS * gb * (SNAPSHOT_HOURS * 3600 * SNAPSHOT_GB_SECOND + RESTORE_GB)
        return bound(cloud.terraform.plan(), AWS_MONTH, AWS_FREE, DAY_OF_A_MONTH, [
            (f"{minutes} minutes of one instance of {gb:.1f} GB", computing),
            (f"{SNAPSHOTS} snapshots, and their restores", snapshots),
            ("the key's secret, a day", SECRET_MONTH * DAY_OF_A_MONTH),
            (f"{IMAGE_GB} GB of images, a day", IMAGE_GB * IMAGE_GB_MONTH * DAY_OF_A_MONTH),
            (f"{LOGS} GB of logs", LOGS * LOG_GB),
        ])

    # ---- calls of the function itself, whose answers come with the platform's report

    def call(self, qualifier):
        """The answer of /health and the end of the log."""
        event = {
            "version": "2.0", "routeKey": "$default", "rawPath": "/health", "rawQueryString": "", "headers": {},
            "requestContext": {"stage": "$default", "http": {"method": "GET", "path": "/health", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "prove"}},
            "isBase64Encoded": False,
        }
        sent, answer = (self.deployment.folder / name for name in ("event.json", "answer.json"))
        sent.write_text(json.dumps(event))
        # As bytes from a file, which both versions of the CLI send as they are.
        words = ["--log-type", "Tail", "--payload", f"fileb://{sent}", "--cli-read-timeout", "120", answer]
        told = json.loads(self.cloud.cli("lambda", "invoke", "--function-name", self.cloud.name, "--qualifier", qualifier, *words).stdout)
        log = base64.b64decode(told.get("LogResult", "")).decode(errors="replace")
        value = json.loads(answer.read_text() or "null")
        sent.unlink()
        answer.unlink()
        return value, "FunctionError" in told, log

    @staticmethod
    def reported(log, key, words):
        found = re.search(rf'"{key}":\s*([\d.]+)|{words}: ([\d.]+) ms', log)
        return found and float(found[1] or found[2])

    def change_function(self, *words):
        self.cloud.cli("lambda", "update-function-configuration", "--function-name", self.cloud.name, *words)
        self.cloud.cli("lambda", "wait", "function-updated-v2", "--function-name", self.cloud.name)

    @contextlib.contextmanager
    def changed_back(self, *words):
        """Of the unpublished function, which callers never reach: Terraform finds it as it left it."""
        try:
            yield
        finally:
            self.change_function(*words)

    def cold_starts(self):
        """Each change of the function's settings makes its instances new ones."""
        config = self.cloud.ask("lambda", "get-function-configuration", "--function-name", self.cloud.name)
        found = []
        with self.changed_back("--description", config["Description"]):
            for number in range(STARTS):
                self.change_function("--description", f"start {number + 1} of {STARTS}")
                value, failed, log = self.call("$LATEST")
                if failed or value["statusCode"] != 200:
                    raise Stop(f"the function failed at a cold start: {value}")
                health = json.loads(value["body"])
                found.append({"init_ms": self.reported(log, "initDurationMs", "Init Duration"), "program": health.get("cold_start")})
        return {"cold_starts": found}

    def processor(self):
        """The image's own `doctor --cpu` in the function's place. It serves no calls, so that this one fails; its line is in the log."""
        with self.changed_back("--image-config", "{}"):
            self.change_function("--image-config", json.dumps({"Command": ["doctor", "--cpu"]}))
            _, _, log = self.call("$LATEST")
        line = next((line for line in log.splitlines() if "instruction sets:" in line), None)
        if line is None:
            raise Stop(f"the function's log has no line of doctor --cpu: {log[-500:]}")
        # Lambda puts a line that is no JSON into one that is.
        return {"processor": json.loads(line).get("message", line).strip() if line.startswith("{") else line.strip()}

    def restores(self):
        """The first call of a version that nobody has called comes from its snapshot."""
        config = self.cloud.ask("lambda", "get-function-configuration", "--function-name", self.cloud.name)
        found = []
        with self.changed_back("--description", config["Description"]):
            for number in range(RESTORES):
                self.change_function("--description", f"restore {number + 1} of {RESTORES}")
                version = self.cloud.ask("lambda", "publish-version", "--function-name", self.cloud.name)["Version"]
                named = ["--function-name", self.cloud.name, "--qualifier", version]
                self.cloud.cli("lambda", "wait", "published-version-active", *named)
                value, failed, log = self.call(version)
                if failed:
                    raise Stop(f"the function failed after a restore: {value}")
                found.append({"restore_ms": self.reported(log, "restoreDurationMs", "Restore Duration")})
                # It is billed for as long as it exists.
                self.cloud.cli("lambda", "delete-function", *named)
        return {"restores": found}

    @staticmethod
    def go_back(commands):
        commands["rollback"]("aws")

    def left(self):
        """What still carries the name, wherever a deployment makes anything."""
        listings = [
            ("lambda", "list-functions", "Functions[].FunctionName"), ("apigatewayv2", "get-apis", "Items[].Name"),
            ("ecr", "describe-repositories", "repositories[].repositoryName"), ("logs", "describe-log-groups", "logGroups[].logGroupName"),
            ("secretsmanager", "list-secrets", "SecretList[].Name"), ("cloudwatch", "describe-alarms", "MetricAlarms[].AlarmName"),
            ("cloudwatch", "list-dashboards", "DashboardEntries[].DashboardName"), ("events", "list-rules", "Rules[].Name"),
            ("stepfunctions", "list-state-machines", "stateMachines[].name"), ("kms", "list-aliases", "Aliases[].AliasName"),
        ]
        # These know no region: of ours, it is in the name.
        of_account = [("iam", "list-roles", "Roles[].RoleName"), ("iam", "list-policies", "Policies[].PolicyName"), ("s3api", "list-buckets", "Buckets[].Name")]
        mine = re.compile(rf"(^|[/_]){re.escape(self.cloud.name)}($|[/-])")
        found = []
        for service, action, query in listings + of_account:
            names = self.cloud.ask(service, action, "--query", query) or []
            found += [f"{service}: {name}" for name in names if mine.search(name) and ((service, action, query) in listings or self.cloud.region in name)]
        return found


class OnAzure:
    # One client needs no second replica, and each has its price.
    SETTINGS = {"scale": {"max_replicas": 1}}
    CHANGE = 'environment={"MAX_QUEUE":"32"}'

    def __init__(self, deployment, model, revision):
        self.cloud = azure.Azure(deployment, model, revision, "azure")
        self.deployment = deployment

    def lost(self):
        return self.cloud.ask("group", "show", "--name", f"{self.cloud.name}-rg") is not None

    def bound(self, minutes):
        settings = self.deployment.get("settings", {})
        cpu = {"vcpus": 4, "memory_gib": 8, **settings.get("cpu", {})}
        # The image is not there before the registry is: planned as it will be.
        self.deployment.record["images"] = {"azure": {"digest": azure.ANY_DIGEST, "tag": "1"}}
        self.cloud.prepare()
        planned = self.cloud.terraform.plan()
        self.deployment.record.pop("images")
        second = cpu["vcpus"] * azure.PRICE_VCPU + cpu["memory_gib"] * azure.PRICE_GIB
        replicas = settings["scale"].get("max_replicas", 10)
        return bound(planned, AZURE_DAY, AZURE_FREE, 1, [
            (f"{minutes} minutes of {replicas} replicas, of the old and the new revision", 2 * replicas * 60 * minutes * second),
            (f"{LOGS} GB of logs", LOGS * AZURE_LOG_GB),
            ("the key vault, a thousand operations", 0.003),
        ])

    def restart(self):
        name = f"{self.cloud.name}-cpu"
        group = f"{self.cloud.name}-rg"
        revision = self.cloud.ask("containerapp", "show", "--name", name, "--resource-group", group)["properties"]["latestRevisionName"]
        self.cloud.ask("containerapp", "revision", "restart", "--name", name, "--resource-group", group, "--revision", revision)

    def cold_starts(self):
        """From the restart of the replicas to the first answer that scores, and the program's own part of it."""
        found = []
        for _ in range(STARTS):
            began = time.monotonic()
            self.restart()
            service = self.cloud.service()
            service.wait()
            found.append({"init_ms": 1000 * (time.monotonic() - began), "program": service.ask("/health")[2].get("cold_start")})
        return {"cold_starts": found}

    def processor(self):
        info = self.cloud.service().ask("/info")[2]
        unused = ", ".join(f"{each['name']} ({each['reason']})" for each in info["faster_instruction_sets"]) or "none"
        return {"processor": f"used: {info['instruction_set']}; faster and not used: {unused}; threads: {info['threads']}"}

    @staticmethod
    def go_back(commands):
        """The image is the one that there was: what was set is taken back."""
        os.environ |= {"SET": "", "UNSET": "environment"}
        commands["deploy"]("azure")

    def left(self):
        groups = [f"{self.cloud.name}-rg", self.cloud.keys_group]
        return [f"resource group: {group}" for group in groups if self.cloud.ask("group", "show", "--name", group) is not None]


PLACES = {"aws": OnAws, "azure": OnAzure}


def dollars():
    given = asked("MAX_DOLLARS")
    try:
        found = float(given or "")
    except ValueError:
        raise Stop(f"MAX_DOLLARS={given or ''}: the most that this may cost you, as in MAX_DOLLARS=2; it is compared with a bound before anything is made") from None
    return found


class Proof:
    def __init__(self, target, commands, named):
        self.target, self.commands = target, commands
        os.environ["DEPLOYMENT"] = asked("DEPLOYMENT") or NAME
        self.most = dollars()
        self.deployment = named(target)
        # What is kept. Neither address nor account nor key.
        self.record = {"cloud": target, "region": self.deployment.region, "steps": [], "left": None}
        began = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        self.record["began"] = began.isoformat()
        self.path = ROOT / f"run/prove/{began:%Y-%m-%d-%H%M%S}-{target}.json"

    def place(self):
        """Anew for each step, as each command reads the record anew."""
        known = type(self.deployment)(self.deployment.cloud, self.deployment.name, self.deployment.region)
        return PLACES[self.target](known, *model_asked(known.record))

    def keep(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.record, indent=2) + "\n")

    def run(self):
        if self.deployment.path.exists():
            if not self.deployment.get("proof"):
                raise Stop(f"{self.deployment.name} in {self.deployment.region} is a deployment of yours, and a proof ends with its removal: "
                           f"take another DEPLOYMENT ({NAME} where it is not given)")
            step("a proof before this one did not come to its end")
            self.commands["destroy"](self.target)
        self.price()
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
        signal.alarm(60 * MINUTES)
        try:
            self.steps()
            self.record["outcome"] = "proven"
        except BaseException as error:
            self.record["outcome"] = "failed"
            self.record["failure"] = str(error) or "interrupted, or not done in time"
            raise
        finally:
            signal.alarm(0)
            self.remove()
        say(f"proven, for at most ${self.record['bound_dollars']:.2f}: {self.path.relative_to(ROOT)}")

    def price(self):
        """Refused before anything is made, where it could cost more than is allowed."""
        with at_work(self.deployment):
            model, revision = model_asked(self.deployment.record)
            self.record |= {"model": model, "revision": revision}
            place = PLACES[self.target](self.deployment, model, revision)
            settings = {**place.SETTINGS, **self.commands["settings"](self.deployment)}
            self.deployment.record |= {"settings": settings, "keys": []}
            try:
                place.cloud.check(settings, place.cloud.builds())
                if place.lost():
                    raise Stop(f"{self.deployment.name} is deployed in {self.deployment.region}, and not from here: take another DEPLOYMENT")
                rows = place.bound(MINUTES)
                total = sum(price for _, price in rows)
                step(f"at most ${total:.2f} in {MINUTES} minutes, by the prices of November 2026")
                for what, price in rows:
                    say(f"   ${price:.4f} {what}")
                if total > self.most:
                    raise Stop(f"${total:.2f} is more than MAX_DOLLARS={self.most:g}: nothing was made")
            except BaseException:
                self.deployment.forget()
                raise
            self.record |= {"bound_dollars": round(total, 4), "bound": [{"what": what, "dollars": round(price, 5)} for what, price in rows]}
            # From here on it is known whose it is, whatever ends this command.
            self.deployment.save(proof=True, settings=settings)

    def one(self, name, act, *words):
        step(f"proof: {name}")
        began, entry = time.monotonic(), {"name": name, "ok": False}
        self.record["steps"].append(entry)
        try:
            found = act(*words)
            entry["ok"] = True
            return found
        finally:
            entry["seconds"] = round(time.monotonic() - began, 1)
            self.keep()

    def measured(self, name, what):
        self.record |= self.one(name, lambda: getattr(self.place(), what)())

    def steps(self):
        self.one("deploy", self.commands["deploy"], self.target)
        self.one("smoke", self.smoke)
        self.measured("cold starts", "cold_starts")
        self.measured("processor", "processor")
        self.one("change", self.change)
        if hasattr(self.place(), "restores"):
            self.measured("restores", "restores")
        self.one("roll back", self.place().go_back, self.commands)
        self.one("rotate the key", self.commands["rotate-key"], self.target)

    def smoke(self):
        service = self.place().cloud.service()
        service.prove(self.record["model"])
        found = service.seconds_of_a_request()
        if found:
            self.record["request_of_32_passages"] = dict(zip(("seconds", "gb_seconds", "tokens"), found))

    def change(self):
        os.environ["SET"] = PLACES[self.target].CHANGE
        self.commands["deploy"](self.target)

    def remove(self):
        """Whatever happened before. What fails here is tried again, as a service may take its time to let go."""
        os.environ["SET"] = ""

        def destroy():
            for left in range(TRIES - 1, -1, -1):
                try:
                    return self.commands["destroy"](self.target)
                except Failed as failed:
                    if not left:
                        raise
                    say(f"{failed}\n   once more in half a minute")
                    time.sleep(30)

        again = f"make destroy-{self.target} DEPLOYMENT={self.deployment.name} {'REGION' if self.target == 'aws' else 'LOCATION'}={self.deployment.region}"
        try:
            self.one("destroy", destroy)
            self.record["left"] = self.one("look for what is left", lambda: self.place().left())
        except BaseException:
            say(f"IT IS NOT ALL REMOVED, and may cost money: {again}")
            raise
        finally:
            self.keep()
        if self.record["left"]:
            self.record["outcome"] = "failed"
            self.keep()
            raise Stop("left, and it may cost money:\n" + "\n".join(self.record["left"]))
