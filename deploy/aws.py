"""AWS Lambda: by Terraform (terraform/aws), or by the SAM CLI (template.yaml)."""

import functools
import json
import os
import re
import secrets

import image
from common import DEMO, ROOT, Failed, Missing, Stop, answers, asked, digest_of, run, say, step, tool
from service import Service, curl
from terraform import Terraform, show_plan

# An account that may run fewer instances than this is new, and new accounts are often held to 3,008 MB for each.
USUAL_CONCURRENCY = 1000
LARGEST_OF_A_NEW_ACCOUNT = 3008
# Three times the cores of the template's own default, for the same price of a request.
MEMORY = {True: 10240, False: 3538}
# Of x86_64 the price that `reranker cost` has.
PRICE_GB_SECOND = {"x86_64": json.loads((ROOT / "src/cli/cost/rates.json").read_text())["gb_second_dollars"], "arm64": 0.0000133334}
PRICE_REQUESTS = 1.20e-6
ADDRESSES = {"terraform": "api_url", "sam": "ApiUrl"}
# Of the parameters in template.yaml by the names that Terraform's variables have.
SAM_NAMES = {"timeout_s": "TimeoutSeconds", "init_budget_s": "InitBudgetSeconds", "alarm_p99_ms": "AlarmP99Ms", "alarm_init_ms": "AlarmInitMs"}

MOCKS = '''mock_provider "archive" {}
mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_region" {
    defaults = { id = "%s" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
}'''
ANY_DIGEST = "sha256:" + "0" * 64
# Of a stack of SAM's: what there is to go back to.
KEPT_RELEASES = 10


def region():
    found = asked("REGION") or asked("AWS_REGION") or asked("AWS_DEFAULT_REGION")
    if not found and answers("aws", "--version"):
        found = run("aws", "configure", "get", "region", check=False).stdout.strip()
    if not found:
        raise Stop("no region: give REGION=eu-central-1 (or any other), or set one by `aws configure set region`")
    return found


class Aws:
    def __init__(self, deployment, model, revision):
        self.deployment, self.model, self.revision = deployment, model, revision
        self.name, self.region = deployment.name, deployment.region
        self.tool = asked("TOOL") or deployment.get("tool") or "terraform"
        if self.tool not in ADDRESSES:
            raise Stop(f"TOOL={self.tool}: terraform or sam")
        if deployment.get("tool", self.tool) != self.tool:
            raise Stop(f"TOOL={self.tool}: {self.name} was deployed by {deployment.get('tool')}; take another DEPLOYMENT, or destroy it first")
        # For the provider too, whose configuration names no region.
        os.environ["AWS_REGION"] = self.region
        self.terraform = Terraform(deployment, "terraform/aws")
        self.secret = f"{self.name}/api-key"
        # Whether a deployment before this one has left a key.
        self.known_before = False

    # ---- asking AWS

    def cli(self, *words, text=None, check=True):
        command = ["aws", *words, "--region", self.region, "--output", "json"]
        return run(*command, text=text, environment={**os.environ, "AWS_PAGER": ""}, check=check)

    def ask(self, *words, text=None):
        """Its answer, or None where there is no such thing."""
        try:
            told = self.cli(*words, text=text).stdout
        except Failed as failed:
            if re.search(r"\((\w*NotFound\w*|NoSuchEntity|NoSuchBucket|404)\)|does not exist", failed.told):
                return None
            raise
        return json.loads(told) if told.strip() else {}

    # ---- before anything is made

    def check(self, settings, builds):
        """Tools, credentials and quotas; what is missing is told at once."""
        key, wanted = self.deployment.get("settings", {}).get("kms_key_arn"), settings.get("kms_key_arn")
        if self.deployment.get("image") and key != wanted:
            raise Stop(f"SET: kms_key_arn={wanted or ''}: the registry, the logs and the buckets of {self.name} are encrypted by the key of its first deployment; "
                       "with another key they would be made anew, and what they hold would be lost: take another DEPLOYMENT")
        missing = Missing()
        if self.tool == "terraform":
            tool(missing, "terraform", "install Terraform 1.9 or newer: https://developer.hashicorp.com/terraform/install", "version")
        else:
            self.check_sam(missing)
        if builds:
            image.needs_docker(missing)
        has_cli = tool(missing, "aws", "install the AWS CLI: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html", "--version")
        account = None
        if has_cli:
            try:
                account = self.ask("sts", "get-caller-identity")["Account"]
            except Failed as failed:
                missing(f"no credentials that AWS takes: {failed.told.splitlines()[-1]}", "log in: aws sso login, aws login or aws configure")
        if account:
            known = self.deployment.get("account", account)
            if known != account:
                missing(f"{self.name} was deployed in account {known}, these credentials are of {account}", "take the other profile: AWS_PROFILE=…")
            self.check_quotas(missing, settings)
        missing.tell()
        self.deployment.save(account=account, tool=self.tool)

    @staticmethod
    def check_sam(missing):
        mend = "install the SAM CLI, 1.156 or newer (older ones have no BuildKit): pip install --upgrade aws-sam-cli"
        if tool(missing, "sam", mend, "--version"):
            told = run("sam", "--version").stdout
            version = tuple(int(part) for part in re.findall(r"\d+", told)[:2])
            if version < (1, 156):
                missing(f"this is {told.strip()}", mend)

    def check_quotas(self, missing, settings):
        limits = self.ask("lambda", "get-account-settings")["AccountLimit"]
        most = limits["ConcurrentExecutions"]
        new = most < USUAL_CONCURRENCY
        ask_for_more = f"ask for more: aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 --desired-value 1000 --region {self.region}"
        reserved = settings.get("reserved_concurrency", -1)
        if reserved > 0 and limits["UnreservedConcurrentExecutions"] < reserved and reserved != self.settings.get("reserved_concurrency"):
            missing(f"reserved_concurrency={reserved}: the account has {limits['UnreservedConcurrentExecutions']} of {most} instances left", ask_for_more)
        provisioned = settings.get("provisioned_concurrency", 0)
        if provisioned > most:
            missing(f"provisioned_concurrency={provisioned}: the account may run {most} instances", ask_for_more)
        usual = MEMORY[self.model != DEMO]
        memory = min(usual, LARGEST_OF_A_NEW_ACCOUNT) if new else usual
        if new and "memory_mb" not in settings:
            say(f"   the account may run {most} instances: new ones are often held to {LARGEST_OF_A_NEW_ACCOUNT} MB each, so {memory} are taken")
            say(f"   {ask_for_more}, then SET=memory_mb={usual}")
        self.deployment.record["defaults"] = {"memory_mb": memory}

    # ---- keys

    @functools.cached_property
    def key(self):
        """The newest key, from the account's secret store; None where there is none."""
        found = self.ask("secretsmanager", "get-secret-value", "--secret-id", self.secret)
        self.deployment.record["key_secret"] = found and found["ARN"]
        return found and found["SecretString"]

    def make_key(self):
        """The key in the secret store first, its hash in the record then: an interruption between them loses neither."""
        self.known_before = self.key is not None
        if self.key is None:
            key = secrets.token_hex(32)
            # By standard input: arguments show in the list of processes.
            made = self.ask("secretsmanager", "create-secret", "--name", self.secret, "--description", f"API key of {self.name}",
                     "--tags", f"Key=application,Value={self.name}", "--secret-string", "file:///dev/stdin", text=key)
            self.key, self.deployment.record["key_secret"] = key, made["ARN"]
        if digest_of(self.key) not in self.deployment.get("keys", []):
            self.deployment.save(keys=[digest_of(self.key), *self.deployment.get("keys", [])], key_shown=False)

    def new_key(self):
        """A second key beside the ones that hold; the same one again after an interruption."""
        if self.key is None or digest_of(self.key) in self.deployment.get("keys", []):
            key = secrets.token_hex(32)
            self.cli("secretsmanager", "put-secret-value", "--secret-id", self.secret, "--secret-string", "file:///dev/stdin", text=key)
            self.key = key
        self.deployment.save(keys=[digest_of(self.key), *self.deployment.get("keys", [])], key_shown=False)

    # ---- deploying

    def variables(self):
        record = self.deployment.record
        held = {"stable_version": record["stable_version"]} if record.get("stable_version") else {}
        if self.settings.get("rollout"):
            # The check of a new version scores with a key before callers reach it.
            held["probe_key_secret_arn"] = record["key_secret"]
        return {
            **held,
            **self.settings,
            "name": self.name,
            "image_digest": record.get("image", {}).get("digest", ""),
            "api_key_hashes": record["keys"],
        }

    @property
    def settings(self):
        """What was set, over what the account and the model ask for."""
        return {**self.deployment.get("defaults", {}), **self.deployment.get("settings", {})}

    @property
    def architecture(self):
        return self.settings.get("architecture", "x86_64")

    @property
    def platform(self):
        return {"x86_64": "linux/amd64", "arm64": "linux/arm64"}[self.architecture]

    def builds(self):
        """Whether an image has to be built or copied."""
        made_from = image.source(self.model, self.revision, self.platform)
        return made_from is None or made_from != self.deployment.get("image", {}).get("source")

    def plan(self, settings):
        self.deployment.record.setdefault("defaults", {"memory_mb": MEMORY[self.model != DEMO]})
        self.deployment.record["settings"] = settings
        if self.tool == "sam":
            template = self.template()
            say(run("sam", "validate", "--lint", "--region", self.region, "--template", template).stdout.strip())
            say("   parameters: " + " ".join(f"{name}={value}" for name, value in self.parameters().items()))
            return
        if answers("aws", "sts", "get-caller-identity", "--region", self.region) and self.deployment.get("keys"):
            self.terraform.write(self.variables())
            self.terraform.init()
            self.terraform.show()
            return
        say("not deployed yet, or without credentials: the plan of a first deployment, with values of AWS's own made up")
        variables = {"image_digest": ANY_DIGEST, "api_key_hashes": [digest_of("any")], **self.settings, "name": self.name}
        show_plan("terraform/aws", variables, MOCKS % self.region)

    def fingerprint(self):
        """What makes a version."""
        return [self.settings, self.deployment.get("image", {}).get("digest"), self.deployment.get("keys")]

    def deploy(self, ship=True, hold=False):
        self.make_key()
        if self.tool == "sam":
            # SAM builds what has changed, and has nothing else to name an image by.
            return self.deploy_sam()
        step("terraform init")
        self.terraform.write(self.variables())
        self.terraform.init()
        self.adopt_leftovers()
        self.deployment.save(applying=True)
        repository = self.repository()
        if ship and self.builds():
            self.deployment.save(image=self.ship(repository))
        if not hold and self.fingerprint() != self.deployment.get("deployed"):
            # Calls that were held at an old version go to the new one.
            self.deployment.record.pop("stable_version", None)
        self.terraform.write(self.variables())
        self.keep_alias()
        step("terraform apply")
        try:
            self.terraform.apply()
        except Failed as failed:
            if re.search(r"MemorySize.*3008|less than or equal to 3008", failed.told):
                raise Stop(f"this account is held to 3,008 MB for an instance: make deploy-aws SET=memory_mb=3008, or ask AWS's support for more\n{failed}") from None
            raise
        outputs = self.terraform.outputs()
        url = outputs["api_url"]
        versions = self.deployment.get("versions", [])
        if outputs["version"] not in versions:
            versions = [*versions, outputs["version"]]
        serves = self.deployment.get("stable_version") or outputs["version"]
        self.deployment.save(applying=False, url=url, versions=versions, serves=serves, deployed=self.fingerprint())
        return url

    def keep_alias(self):
        """With `rollout` the alias is another resource, as CodeDeploy moves it; made anew, it would answer nobody for a while."""
        before, after = ("live", "rolled") if self.settings.get("rollout") else ("rolled", "live")
        for address, kind, _ in self.terraform.resources():
            if kind == "aws_lambda_alias" and address.endswith(f".{before}"):
                self.terraform("state", "mv", self.terraform.state, f"{address}[0]", f"{address.removesuffix(before)}{after}[0]")

    def repository(self):
        """The registry, which is made before the rest: the function needs an image to be made from."""
        for _, kind, attributes in self.terraform.resources():
            if kind == "aws_ecr_repository":
                return attributes["repository_url"]
        step("terraform apply: the registry")
        self.terraform.write({**self.variables(), "image_digest": ANY_DIGEST})
        changes = self.terraform.plan()
        targets = [f"-target={change['address']}" for change in changes if change["type"] == "aws_ecr_repository"]
        self.terraform.apply(*targets)
        self.terraform.write(self.variables())
        return self.repository()

    def images(self, **wanted):
        identity = ",".join(f"{name}={value}" for name, value in wanted.items())
        found = self.ask("ecr", "describe-images", "--repository-name", self.name, "--image-ids", identity)
        return found["imageDetails"][0]["imageDigest"] if found else None

    def ship(self, repository):
        """The image into the account's registry, unless it is there; where it came from, and its digest there."""
        made_from = image.source(self.model, self.revision, self.platform)
        given = image.given()
        if given and self.images(imageDigest=given["digest"]):
            return {"source": made_from, "digest": given["digest"]}
        local = image.make(self.model, self.revision, self.platform)
        tag = image.tag_of(local)
        if not self.images(imageTag=tag):
            password = run("aws", "ecr", "get-login-password", "--region", self.region).stdout
            run("docker", "login", "--username", "AWS", "--password-stdin", repository.partition("/")[0], text=password)
            image.push(local, f"{repository}:{tag}")
        return {"source": made_from, "digest": self.images(imageTag=tag)}

    # ---- what a killed Terraform made and did not write down

    def orphans(self):
        """What carries this deployment's tag, by ARN."""
        found = self.ask("resourcegroupstaggingapi", "get-resources", "--tag-filters", f"Key=application,Values={self.name}")
        return [entry["ResourceARN"] for entry in (found or {}).get("ResourceTagMappingList", [])]

    def adopt_leftovers(self):
        """An apply that was killed may have made what its state does not have: it is taken over, not made twice. So is everything where the
        state is lost and the key's secret tells that there was a deployment."""
        lost = self.known_before and not self.terraform.resources()
        if not self.deployment.get("applying") and not lost:
            return
        step("looking for what an apply before this one left")
        known = {attributes.get("arn") for _, _, attributes in self.terraform.resources()}
        planned = [change for change in self.terraform.plan(*([] if self.deployment.get("image") else [f"-var=image_digest={ANY_DIGEST}"]))
                   if change["change"]["actions"] == ["create"]]
        for change in planned:
            identity = self.existing(change["type"], change["change"]["after"], known)
            if identity:
                self.terraform.adopt(change["address"], identity)

    def existing(self, kind, planned, known):
        """What `terraform import` takes for a resource that is to be made, where the account has it already."""
        name = planned.get("name") or planned.get("function_name") or planned.get("bucket")
        account = self.deployment.get("account")
        if kind in ("aws_kms_key", "aws_apigatewayv2_api"):
            # They have no names of their own; the tag tells whose they are.
            part = ":kms:" if kind == "aws_kms_key" else "::/apis/"
            for arn in self.orphans():
                identity = arn.rpartition("/")[2]
                if part in arn and arn not in known and self.alive(kind, identity):
                    return identity
            return None
        probes = {
            "aws_kms_alias": (name, ["kms", "describe-key", "--key-id", name]),
            "aws_ecr_repository": (name, ["ecr", "describe-repositories", "--repository-names", name]),
            "aws_iam_role": (name, ["iam", "get-role", "--role-name", name]),
            "aws_iam_policy": (f"arn:aws:iam::{account}:policy/{name}", ["iam", "get-policy", "--policy-arn", f"arn:aws:iam::{account}:policy/{name}"]),
            "aws_lambda_function": (name, ["lambda", "get-function", "--function-name", name]),
            "aws_lambda_alias": (f"{self.name}/{name}", ["lambda", "get-alias", "--function-name", self.name, "--name", str(name)]),
            "aws_lambda_function_url": (f"{self.name}/live", ["lambda", "get-function-url-config", "--function-name", self.name, "--qualifier", "live"]),
            "aws_s3_bucket": (name, ["s3api", "head-bucket", "--bucket", str(name)]),
        }
        if kind == "aws_cloudwatch_log_group":
            groups = self.ask("logs", "describe-log-groups", "--log-group-name-prefix", name)["logGroups"]
            return name if any(group["logGroupName"] == name for group in groups) else None
        if kind == "aws_lambda_permission":
            policy = self.ask("lambda", "get-policy", "--function-name", self.name, "--qualifier", "live")
            return f"{self.name}:live/{planned['statement_id']}" if policy and f'"{planned["statement_id"]}"' in policy["Policy"] else None
        api = planned.get("api_id")
        if kind == "aws_apigatewayv2_route" and api:
            routes = self.ask("apigatewayv2", "get-routes", "--api-id", api)["Items"]
            return next((f"{api}/{route['RouteId']}" for route in routes if route["RouteKey"] == planned["route_key"]), None)
        if kind == "aws_apigatewayv2_stage" and api:
            probes[kind] = (f"{api}/{name}", ["apigatewayv2", "get-stage", "--api-id", api, "--stage-name", name])
        # What is left of the types can be made twice under the same name, and is then the same.
        if kind not in probes or name is None:
            return None
        identity, probe = probes[kind]
        return identity if self.ask(*probe) is not None else None

    def alive(self, kind, identity):
        if kind == "aws_kms_key":
            return self.ask("kms", "describe-key", "--key-id", identity)["KeyMetadata"]["KeyState"] == "Enabled"
        return self.ask("apigatewayv2", "get-api", "--api-id", identity) is not None

    # ---- by SAM

    def template(self):
        """The template with the model that the image is to get, or with the image that there is. The tracked file stays as it is."""
        text = (ROOT / "template.yaml").read_text()
        given = image.given()
        if given:
            if ".dkr.ecr." not in given["repository"]:
                raise Stop(f"IMAGE={given[0]}: with TOOL=sam the image must lie in the account's own ECR; TOOL=terraform copies it there")
            text, replaced = re.subn(r"(?ms)^    Metadata:\n      Dockerfile: .*?(?=^      checkov:)", "    Metadata:\n", text)
            text, images = re.subn(r"(?m)^      PackageType: Image$", f"      PackageType: Image\n      ImageUri: {given[0]}", text)
            replaced = replaced and images
        else:
            arguments = {"MODEL": "models/demo" if self.model == DEMO else self.model, "MODEL_REVISION": self.revision}
            text, replaced = re.subn(r"(?m)^      DockerBuildArgs: \{.*\}$", f"      DockerBuildArgs: {json.dumps(arguments)}", text)
            # Paths of the tracked file are beside it.
            text = text.replace("DockerContext: .", f"DockerContext: {ROOT}")
        text = text.replace("CodeUri: aws/", f"CodeUri: {ROOT}/aws/")
        if not replaced:
            raise Stop("template.yaml is not as deploy/aws.py knows it: the function's Metadata and PackageType were not found")
        self.deployment.folder.mkdir(parents=True, exist_ok=True)
        path = self.deployment.folder / "template.yaml"
        path.write_text(text)
        return path

    @staticmethod
    def defaults():
        """The template's parameters, and the values that they have by themselves."""
        section = (ROOT / "template.yaml").read_text().partition("\nParameters:\n")[2].partition("\nRules:")[0]
        blocks = re.findall(r"(?m)^  (\w+):\n((?:    .*\n)+)", section)
        return {name: re.search(r'(?m)^    Default: "?([^"\n]*)"?$', block)[1] for name, block in blocks}

    def parameters(self):
        """What is set, by the template's names."""
        found = {SAM_NAMES.get(name) or "".join(part.capitalize() for part in name.split("_")): value for name, value in self.settings.items()}
        unknown = sorted(found.keys() - self.defaults().keys())
        if unknown:
            raise Stop(f"SET: template.yaml has no parameter {', '.join(unknown)}; TOOL=terraform has more variables")
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in found.items()}

    def of_keys(self):
        arn, version = self.hashes_secret()
        return {"ApiKeysSecretArn": arn, "ApiKeysVersionId": version, "ProbeKeySecretArn": self.deployment.get("key_secret")}

    def stack(self):
        found = self.ask("cloudformation", "describe-stacks", "--stack-name", self.name) if self.exists() else None
        return found and found["Stacks"][0]

    def exists(self):
        return self.cli("cloudformation", "describe-stacks", "--stack-name", self.name, check=False).returncode == 0

    def hashes_secret(self):
        """SAM's template reads the keys' hashes from a secret: its ARN, and the version with exactly these."""
        text = ",".join(self.deployment.get("keys"))
        name = f"{self.name}/api-key-hashes"
        found = self.ask("secretsmanager", "get-secret-value", "--secret-id", name)
        if found is None:
            found = self.ask("secretsmanager", "create-secret", "--name", name, "--secret-string", text)
        elif found["SecretString"] != text:
            found = self.ask("secretsmanager", "put-secret-value", "--secret-id", name, "--secret-string", text)
        return found["ARN"], found["VersionId"]

    def settle_stack(self):
        """Waits for what is under way, and removes a stack whose making failed, as it takes no update."""
        stack = self.stack()
        if stack and stack["StackStatus"] == "ROLLBACK_COMPLETE":
            say("   the first deployment failed, and such a stack takes no update: it is removed")
            self.cli("cloudformation", "delete-stack", "--stack-name", self.name)
            self.cli("cloudformation", "wait", "stack-delete-complete", "--stack-name", self.name)
        elif stack and stack["StackStatus"].endswith("_IN_PROGRESS"):
            wait = "stack-update-complete" if "UPDATE" in stack["StackStatus"] else "stack-create-complete"
            step("a deployment is under way: waiting for its end")
            self.cli("cloudformation", "wait", wait, "--stack-name", self.name, check=False)

    def wanted(self):
        """What a deployment by SAM is made from; None where only a build can tell."""
        source = image.source(self.model, self.revision, self.platform)
        return source and [source, self.settings, self.deployment.get("keys")]

    def sam_deploy(self, template, parameters, *more):
        # Every parameter, as SAM keeps the earlier value of one that is not named; an empty value is two quotes to it.
        values = [f'{name}={value or chr(34) * 2}' for name, value in parameters.items()]
        run("sam", "deploy", "--template", template, "--stack-name", self.name, "--region", self.region, "--resolve-s3", *more,
            "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-fail-on-empty-changeset", "--parameter-overrides", *values, capture=False)

    def deploy_sam(self):
        self.settle_stack()
        if self.wanted() and self.wanted() == self.deployment.get("taken_back"):
            say(f"   nothing has changed since rollback-aws: version {self.deployment.get('serves')} goes on serving")
            return
        self.check_alias()
        template = self.template()
        built = template
        if not image.given():
            step("sam build")
            folder = self.deployment.folder / "build"
            run("sam", "build", "--template", template, "--build-dir", folder, "--use-buildkit",
                "--parameter-overrides", f"Architecture={self.architecture}", capture=False)
            built = folder / "template.yaml"
        step("sam deploy")
        parameters = {**self.defaults(), **self.parameters(), **self.of_keys()}
        # SAM asks for a repository even where the image is in one already.
        given = image.given()
        self.sam_deploy(built, parameters, *(["--image-repository", given["repository"]] if given else ["--resolve-image-repos"]))
        self.deployment.record.pop("taken_back", None)
        self.deployment.record["deployed"] = self.wanted()
        self.keep_release()

    def check_alias(self):
        """CodeDeploy moves calls from where the stack left them, and nowhere else from."""
        found = self.ask("cloudformation", "describe-stack-resources", "--stack-name", self.name) if self.exists() else None
        left_at = [entry["PhysicalResourceId"].rpartition(":")[2] for entry in (found or {}).get("StackResources", []) if entry["ResourceType"] == "AWS::Lambda::Version"]
        alias = self.ask("lambda", "get-alias", "--function-name", self.name, "--name", "live") if left_at else None
        if alias and alias["FunctionVersion"] not in left_at:
            raise Stop(f"calls go to version {alias['FunctionVersion']}, and the stack left them at {left_at[0]}: CodeDeploy refuses to go on from elsewhere. "
                       f"make rollback-aws VERSION={alias['FunctionVersion']} brings the stack to that version; or, to leave it: "
                       f"aws lambda update-alias --function-name {self.name} --name live --function-version {left_at[0]} --region {self.region}")

    def keep_release(self):
        """The stack as CloudFormation has it now, to go back to."""
        stack = self.stack()
        alias = self.ask("lambda", "get-alias", "--function-name", self.name, "--name", "live")
        template = self.ask("cloudformation", "get-template", "--stack-name", self.name, "--template-stage", "Processed")["TemplateBody"]
        version = alias["FunctionVersion"]
        folder = self.deployment.folder / "releases"
        folder.mkdir(exist_ok=True)
        (folder / f"{version}.json").write_text(template if isinstance(template, str) else json.dumps(template))
        parameters = {entry["ParameterKey"]: entry["ParameterValue"] for entry in stack["Parameters"]}
        others = [release for release in self.deployment.get("releases", []) if release["version"] != version]
        releases = [*others, {"version": version, "parameters": parameters}]
        for old in releases[:-KEPT_RELEASES]:
            (folder / f"{old['version']}.json").unlink(missing_ok=True)
        urls = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.deployment.save(url=urls["ApiUrl"], releases=releases[-KEPT_RELEASES:], serves=version)

    def roll_back_sam(self):
        """The alias first, in seconds. Then the stack, in minutes: CodeDeploy refuses the next deployment of one whose alias is not where it left it."""
        stack = self.stack()
        if stack and stack["StackStatus"] == "UPDATE_IN_PROGRESS":
            step("an update is under way: CloudFormation takes it back")
            self.cli("cloudformation", "cancel-update-stack", "--stack-name", self.name)
            self.cli("cloudformation", "wait", "stack-rollback-complete", "--stack-name", self.name)
            return self.keep_release()
        serves, releases = self.deployment.get("serves"), self.deployment.get("releases", [])
        known = [release["version"] for release in releases]
        before = [release["version"] for release in releases[: known.index(serves) if serves in known else 0] if not release.get("left")]
        version = asked("VERSION") or (before[-1] if before else None)
        if version not in known or version == serves:
            raise Stop(f"VERSION={version or ''}: it is none that was deployed before version {serves}, which serves; known here: {', '.join(known) or 'none'}")
        step(f"moving calls to version {version}")
        if self.ask("lambda", "get-function", "--function-name", self.name, "--qualifier", version) is None:
            say("   that version is gone: the stack publishes it anew")
        else:
            self.cli("lambda", "update-alias", "--function-name", self.name, "--name", "live", "--function-version", version,
                     "--routing-config", "AdditionalVersionWeights={}")
        step("the stack follows")
        template = json.loads((self.deployment.folder / f"releases/{version}.json").read_text())
        for resource in template["Resources"].values():
            if resource["Type"] == "AWS::Lambda::Alias":
                # CloudFormation itself moves the alias, from wherever it is.
                resource.pop("UpdatePolicy", None)
        repository = re.split(r"@|:[^:/]+$", template["Resources"]["Reranker"]["Properties"]["Code"]["ImageUri"])[0]
        path = self.deployment.folder / "back.json"
        path.write_text(json.dumps(template))
        # The keys of today hold: a key that was taken away since then must not come back.
        parameters = {**releases[known.index(version)]["parameters"], **self.of_keys()}
        self.sam_deploy(path, parameters, "--image-repository", repository)
        for release in releases:
            if release["version"] == serves:
                release["left"] = True
        self.deployment.save(releases=releases, taken_back=self.deployment.get("deployed"))
        self.keep_release()

    # ---- afterwards

    def service(self):
        return Service(self.deployment.get("url"), self.key)

    def tell(self, service):
        found = service.seconds_of_a_request()
        if found:
            seconds, gb_seconds, tokens = found
            price = 1000 * (gb_seconds * PRICE_GB_SECOND[self.architecture] + PRICE_REQUESTS)
            say(f"price    ${price:.4f} per 1,000 requests of 32 passages ({tokens} tokens, {seconds:.2f} s by this instance's measured speed)")
        secrets_and_keys = "$0.80 a month for two secrets" if self.tool == "sam" else "$0.40 a month for the key's secret, $1 for the KMS key"
        say(f"idle     image storage, {secrets_and_keys}, alarms at $0.10; no instance")
        show = f"$(aws secretsmanager get-secret-value --secret-id {self.secret} --region {self.region} --query SecretString --output text)"
        say(f"key      {show}")
        return curl(service.url, "$KEY")

    def roll_back(self):
        if self.tool == "sam":
            return self.roll_back_sam()
        versions = self.deployment.get("versions", [])
        serves = self.deployment.get("serves")
        wanted = asked("VERSION") or (versions[versions.index(serves) - 1] if serves in versions and versions.index(serves) else None)
        if not wanted:
            raise Stop(f"there is no version before {serves}; VERSION=N names one of: {', '.join(versions)}")
        if self.ask("lambda", "get-function", "--function-name", self.name, "--qualifier", wanted) is None:
            raise Stop(f"VERSION={wanted}: {self.name} has no such version; there are: {', '.join(versions)}")
        step(f"moving calls to version {wanted}")
        self.cli("lambda", "update-alias", "--function-name", self.name, "--name", "live", "--function-version", wanted,
                 "--routing-config", "AdditionalVersionWeights={}")
        self.deployment.save(stable_version=wanted)
        return self.deploy(ship=False, hold=True)

    def destroy(self):
        self.known_before = self.key is not None
        if not self.deployment.path.exists() and not self.known_before:
            self.deployment.forget()
            return []
        if self.tool == "sam":
            if self.exists():
                step("sam delete")
                run("sam", "delete", "--stack-name", self.name, "--region", self.region, "--no-prompts", capture=False)
            left = ["the bucket and stack aws-sam-cli-managed-default, which other SAM applications share"]
        else:
            left = self.destroy_terraform()
        for secret in (self.secret, f"{self.name}/api-key-hashes"):
            self.ask("secretsmanager", "delete-secret", "--secret-id", secret, "--force-delete-without-recovery")
        self.deployment.forget()
        return left

    def destroy_terraform(self):
        step("terraform destroy")
        self.deployment.record.setdefault("keys", [])
        if not self.deployment.record["keys"]:
            self.deployment.record["keys"] = [digest_of("any")]
        variables = {**self.variables(), "force_destroy": True}
        variables["image_digest"] = variables["image_digest"] or ANY_DIGEST
        self.terraform.write(variables)
        self.terraform.init()
        self.adopt_leftovers()
        present = [(address, kind) for address, kind, _ in self.terraform.resources()]
        # What may be removed with images and objects in it, a provider reads from the state: so it is put there first.
        full = [f"-target={address}" for address, kind in present if kind in ("aws_ecr_repository", "aws_s3_bucket")]
        if full:
            self.terraform.apply(*full)
        self.deployment.save(applying=True)
        self.terraform.destroy()
        left = []
        for arn in self.orphans():
            identity = re.split(r"[:/]", arn)[-1]
            if ":kms:" in arn:
                key = self.ask("kms", "describe-key", "--key-id", arn)["KeyMetadata"]
                if key["KeyState"] == "PendingDeletion":
                    left.append(f"{arn}: costs nothing any more, and is gone for good at {key['DeletionDate']}")
                    continue
            # Tags are listed for a while after what carried them is gone.
            probes = {
                "::/apis/": ["apigatewayv2", "get-api", "--api-id", identity],
                ":ecr:": ["ecr", "describe-repositories", "--repository-names", identity],
                ":function:": ["lambda", "get-function", "--function-name", arn],
                ":s3:": ["s3api", "head-bucket", "--bucket", identity],
            }
            probe = next((words for part, words in probes.items() if part in arn), None)
            if ":secretsmanager:" not in arn and (probe is None or self.ask(*probe) is not None):
                left.append(f"{arn}: has this deployment's tag and is not of its making; look at it, it may cost money")
        return left
