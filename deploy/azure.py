"""Azure: Container Apps on CPUs or GPUs and the function app, all by Terraform (terraform/azure)."""

import hashlib
import json
import re
import secrets
import time

import image
from common import Failed, Missing, Stop, answers, asked, digest_of, run, say, step, tool
from service import Service, curl
from terraform import Terraform, show_plan

# Of each target: the variable that names its image, the output with its address, and the image's repository in the registry.
APPS = {
    "azure": ("image", "url", "reranker"),
    "azure-gpu": ("gpu_image", "gpu_url", "reranker-gpu"),
    "functions": ("functions_image", "functions_url", "reranker-functions"),
}
# By the second, for each vCPU and GiB of a working replica in the Consumption profile.
PRICE_VCPU, PRICE_GIB = 0.000024, 0.000003
GPU = {"profile": "Consumption-GPU-NC8as-T4", "location": "swedencentral"}
PROVIDERS = ["Microsoft.App", "Microsoft.ContainerRegistry", "Microsoft.Insights", "Microsoft.KeyVault", "Microsoft.ManagedIdentity",
             "Microsoft.OperationalInsights", "Microsoft.Storage", "Microsoft.Web"]
MOCKS = 'mock_provider "azurerm" {}\nmock_provider "azapi" {}\nmock_provider "random" {}\n'
ANY_DIGEST = "sha256:" + "0" * 64
# Roles are spread in minutes, and the registry refuses whoever comes before.
EARLY = re.compile(r"UNAUTHORIZED|AuthorizationFailed|unable to pull image", re.I)
TRIES = 6


def region():
    return asked("LOCATION") or "westeurope"


class Azure:
    def __init__(self, deployment, model, revision, target):
        self.deployment, self.model, self.revision, self.target = deployment, model, revision, target
        self.name, self.location = deployment.name, deployment.region
        if len(self.name) > 16:
            raise Stop(f"DEPLOYMENT={self.name}: at most 16 characters on Azure, where names of storage accounts are short")
        self.variable, self.output, self.repository = APPS[target]
        self.dockerfile = "Dockerfile.gpu" if target == "azure-gpu" else "Dockerfile.lambda"
        self.terraform = Terraform(deployment, "terraform/azure")
        self.keys_group = f"{self.name}-keys"

    def ask(self, *words, text=None):
        """Its answer, or None where there is no such thing."""
        try:
            told = run("az", *words, "--output", "json", text=text).stdout
        except Failed as failed:
            if re.search(r"NotFound|not found|could not be found", failed.told):
                return None
            raise
        return json.loads(told) if told.strip() else {}

    @property
    def images(self):
        return self.deployment.get("images", {})

    # ---- before anything is made

    def check(self, settings, builds):
        missing = Missing()
        tool(missing, "terraform", "install Terraform 1.11 or newer: https://developer.hashicorp.com/terraform/install", "version")
        has_cli = tool(missing, "az", "install the Azure CLI: https://learn.microsoft.com/cli/azure/install-azure-cli", "version")
        if builds:
            image.needs_docker(missing)
        account = None
        if has_cli:
            try:
                account = self.ask("account", "show")["id"]
            except Failed:
                missing("nobody is logged in to Azure", "az login")
        if account:
            # azd has a subscription of its own, which it tells its hooks.
            known = self.deployment.get("account") or asked("AZURE_SUBSCRIPTION_ID") or account
            if known != account:
                missing(f"{self.name} belongs in subscription {known}, the CLI is in {account}", f"az account set --subscription {known}")
            if self.target == "azure-gpu":
                self.check_gpus(missing, account, {**GPU, **settings.get("gpu", {})})
        missing.tell()
        self.register()
        self.deployment.save(account=account)

    def check_gpus(self, missing, account, gpu):
        """Serverless GPUs are counted by region; a new subscription has none."""
        kind = "T4" if gpu["profile"].endswith("T4") else "A100"
        url = f"https://management.azure.com/subscriptions/{account}/providers/Microsoft.App/locations/{gpu['location']}/usages?api-version=2025-07-01"
        usages = (self.ask("rest", "--method", "get", "--url", url) or {}).get("value", [])
        of_kind = [usage for usage in usages if kind in usage["name"]["value"] and "Consumption" in usage["name"]["value"]]
        if not any(usage["limit"] > usage["currentValue"] for usage in of_kind):
            missing(f"no quota for a serverless {kind} in {gpu['location']}: {of_kind or 'none is listed'}",
                    f"ask for it in the portal: Quotas, Azure Container Apps, {gpu['location']}, \"Consumption … {kind}\"; "
                    "or another region by SET='gpu={\"location\":\"…\"}'")

    def register(self):
        """A new subscription knows none of these. Registering is free, and done once."""
        states = {entry["namespace"]: entry["registrationState"] for entry in self.ask("provider", "list")}
        for name in PROVIDERS:
            if states.get(name) != "Registered":
                step(f"registering {name} in the subscription")
                run("az", "provider", "register", "--namespace", name, "--wait")

    # ---- keys, in a vault of a group of its own: Terraform's group is not removed while others' things are in it

    @property
    def vault(self):
        text = f"{self.deployment.get('account')} {self.name} {self.location}"
        return "kv-" + hashlib.sha256(text.encode()).hexdigest()[:18]

    def key(self):
        found = self.ask("keyvault", "secret", "show", "--vault-name", self.vault, "--name", "api-key")
        return found and found["value"]

    def keep(self, key):
        # By standard input: arguments show in the list of processes.
        words = ["keyvault", "secret", "set", "--vault-name", self.vault, "--name", "api-key", "--file", "/dev/stdin", "--encoding", "utf-8"]
        self.ask(*words, text=key)

    def make_key(self):
        if self.ask("keyvault", "show", "--name", self.vault) is None:
            step(f"a key vault: {self.vault}")
            self.ask("group", "create", "--name", self.keys_group, "--location", self.location)
            self.ask("keyvault", "create", "--name", self.vault, "--resource-group", self.keys_group, "--location", self.location,
                     "--enable-rbac-authorization", "false", "--retention-days", "7")
        key = self.key()
        if key is None:
            key = secrets.token_hex(32)
            self.keep(key)
        if digest_of(key) not in self.deployment.get("keys", []):
            self.deployment.save(keys=[digest_of(key), *self.deployment.get("keys", [])], key_shown=False)

    def new_key(self):
        key = self.key()
        if key is None or digest_of(key) in self.deployment.get("keys", []):
            key = secrets.token_hex(32)
            self.keep(key)
        self.deployment.save(keys=[digest_of(key), *self.deployment.get("keys", [])], key_shown=False)

    # ---- deploying

    def variables(self):
        named = {}
        for target, shipped in self.images.items():
            variable, _, repository = APPS[target]
            of_functions = {"repository": repository, "tag": shipped["tag"]}
            named[variable] = of_functions if target == "functions" else f"{repository}@{shipped['digest']}"
        return {
            **self.deployment.get("settings", {}),
            **named,
            "name": self.name,
            "location": self.location,
            "subscription_id": self.deployment.get("account"),
        }

    def builds(self):
        made_from = image.source(self.model, self.revision, "linux/amd64", self.dockerfile)
        return made_from is None or made_from != self.images.get(self.target, {}).get("source")

    def plan(self, settings):
        if self.deployment.get("account") and self.deployment.get("keys") and answers("az", "account", "show"):
            self.deployment.record["settings"] = settings
            self.prepare()
            self.terraform.show()
            return
        say("not deployed yet, or not logged in: the plan of a first deployment, with values of Azure's own made up")
        name = {"repository": self.repository, "tag": "1"} if self.target == "functions" else f"{self.repository}@{ANY_DIGEST}"
        variables = {**settings, self.variable: name, "api_keys": [digest_of("any")], "name": self.name, "location": self.location,
                     "subscription_id": "00000000-0000-0000-0000-000000000000"}
        show_plan("terraform/azure", variables, MOCKS)

    def prepare(self):
        self.terraform.secrets = {"api_keys": self.deployment.get("keys") or [digest_of("any")]}
        self.terraform.write(self.variables())
        self.terraform.init()

    def deploy(self, ship=True):
        self.make_key()
        step("terraform init")
        self.prepare()
        self.deployment.save(applying=True)
        if not any(kind == "azurerm_container_registry" for _, kind, _ in self.terraform.resources()):
            step("terraform apply: the registry")
            self.apply()
        if ship and self.builds():
            outputs = self.terraform.outputs()
            shipped = self.ship(outputs["registry"], outputs["registry_server"])
            previous = [entry for entry in [self.images.get(self.target)] if entry and entry["digest"] != shipped["digest"]]
            before = {**self.deployment.get("before", {}), **({self.target: previous[0]} if previous else {})}
            self.deployment.save(images={**self.images, self.target: shipped}, before=before)
            self.terraform.write(self.variables())
        step("terraform apply")
        self.apply()
        outputs = self.terraform.outputs()
        urls = {target: outputs[output] for target, (_, output, _) in APPS.items() if outputs.get(output)}
        self.deployment.save(applying=False, urls=urls)

    def apply(self):
        for left in range(TRIES - 1, -1, -1):
            try:
                return self.terraform.apply()
            except Failed as failed:
                # What a killed apply made and did not write down.
                found = re.findall(r'with the ID "([^"]+)" already exists.*?with ([^,\s]+),', failed.told, re.S)
                for identity, address in found:
                    self.terraform.adopt(address, identity)
                if not left or not (found or EARLY.search(failed.told)):
                    raise
                if not found:
                    say("   the new roles are not known everywhere yet: once more in a minute")
                    time.sleep(60)

    def ship(self, registry, server):
        made_from = image.source(self.model, self.revision, "linux/amd64", self.dockerfile)
        local = image.make(self.model, self.revision, "linux/amd64", self.dockerfile)
        if self.target == "functions":
            step("building the function app's image")
            run("docker", "build", "--platform", "linux/amd64", "--build-arg", f"SERVICE={local}", "--tag", "reranker-deploy-functions", "azure", capture=False)
            local = "reranker-deploy-functions"
        tag = image.tag_of(local)
        named = ["--name", registry, "--image", f"{self.repository}:{tag}"]
        found = self.ask("acr", "repository", "show", *named)
        if found is None:
            run("az", "acr", "login", "--name", registry)
            image.push(local, f"{server}/{self.repository}:{tag}")
            found = self.ask("acr", "repository", "show", *named)
        # App Service takes no digest: a tag that cannot be written again is as good as one.
        self.ask("acr", "repository", "update", *named, "--write-enabled", "false")
        return {"source": made_from, "digest": found["digest"], "tag": tag}

    # ---- afterwards

    def service(self):
        return Service(self.deployment.get("urls", {})[self.target], self.key())

    def tell(self, service):
        found = service.seconds_of_a_request()
        if found and self.target == "azure":
            cpu = {"vcpus": 4, "memory_gib": 8, **self.deployment.get("settings", {}).get("cpu", {})}
            price = 1000 * found[0] * (cpu["vcpus"] * PRICE_VCPU + cpu["memory_gib"] * PRICE_GIB)
            say(f"price    ${price:.4f} per 1,000 requests of 32 passages ({found[2]} tokens, {found[0]:.2f} s by this instance's measured speed), "
                "and the minutes that a replica waits for more")
        elif found:
            say(f"time     {found[0]:.2f} s for 32 passages ({found[2]} tokens); prices: https://azure.microsoft.com/pricing/")
        waiting = {"functions": "one Premium instance around the clock"}.get(self.target, "no replica")
        say(f"idle     {waiting}; the registry (Basic) at about $5 a month, logs by the gigabyte")
        say(f"key      $(az keyvault secret show --vault-name {self.vault} --name api-key --query value --output tsv)")
        return curl(service.url, "$KEY")

    def roll_back(self):
        before = self.deployment.get("before", {}).get(self.target)
        if not before:
            raise Stop("there is no image before this one to go back to")
        serves = self.images[self.target]
        self.deployment.save(images={**self.images, self.target: before}, before={**self.deployment.get("before"), self.target: serves})
        step(f"going back to {self.repository}@{before['digest']}")
        self.prepare()
        self.deployment.save(applying=True)
        self.apply()
        self.deployment.save(applying=False, serves=before["digest"])

    def destroy(self):
        if not self.deployment.path.exists():
            self.deployment.forget()
            return []
        images = dict(self.images)
        if self.target != "azure":
            images.pop(self.target, None)
            urls = {target: url for target, url in self.deployment.get("urls", {}).items() if target != self.target}
            self.deployment.save(images=images)
            self.prepare()
            step("terraform apply")
            self.apply()
            self.deployment.save(urls=urls)
            return [f"the registry, the log workspace and the key vault of {self.name}: make destroy-azure takes them too"]
        self.prepare()
        step("terraform destroy")
        self.terraform.destroy()
        if self.ask("keyvault", "show", "--name", self.vault) is not None:
            step(f"deleting {self.vault}")
            self.ask("keyvault", "delete", "--name", self.vault)
        self.ask("keyvault", "purge", "--name", self.vault)
        if self.ask("group", "show", "--name", self.keys_group) is not None:
            self.ask("group", "delete", "--name", self.keys_group, "--yes")
        self.deployment.forget()
        return []
