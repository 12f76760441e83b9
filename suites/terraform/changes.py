"""Every variable of terraform/azure, changed on a stack that is there: what each makes of its resource, at the least and at the most that it takes,
by the provider's rules for values (rules.py).

    changes.py ROOT      the copy of the root that moved.py has planned in, with its state; needs provider.py behind TF_REATTACH_PROVIDERS
"""

import json
import pathlib
import re
import sys

from moved import EVERYTHING, terraform

GROUP, REGISTRY, LOGS = "azurerm_resource_group.this", "azurerm_container_registry.this", "azurerm_log_analytics_workspace.this"
MAIL = "azurerm_monitor_action_group.this[0]"
ENVIRONMENT = "module.cpu[0].azurerm_container_app_environment.this[0]"
CPU, GPU = "module.cpu[0].azurerm_container_app.this", "module.gpu[0].azurerm_container_app.this"
GPU_ENVIRONMENT = "module.gpu[0].azapi_resource.gpu_environment[0]"
PLAN, FUNCTIONS = "module.functions[0].azurerm_service_plan.this", "module.functions[0].azurerm_linux_function_app.this"
CONTAINER, SCALE, IMAGE = "template.0.container.0", "template.0", "site_config.0.application_stack.0.docker.0"

KEY = "a-key-of-sixteen"
SUBNET = "/subscriptions/s/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/v/subnets/apps"
TAGS = {f"tag{number}": "x" for number in range(49)}
LONGEST = "a23456789-123456"

# What no row below has, and where it is held instead.
ELSEWHERE = {
    "subscription_id": "another subscription is another deployment",
    "allow_anonymous": "a consent alone: `no_keys_unless_it_is_said` of terraform/modules/container-app/tests",
}

# [{variable: value}, [(address, path, what the plan has there)]]: the rows of one list are planned at once.
LEAST = [
    ({"name": "abc"}, [(GROUP, "name", "abc-rg"), (REGISTRY, "name", "abcabc123")]),
    ({"location": "uksouth"}, [(GROUP, "location", "uksouth"), (CPU, "name", "abc-cpu")]),
    ({"tags": {}}, [(GROUP, "tags", {"application": "serverless-reranker"})]),
    ({"registry_sku": "Standard"}, [(REGISTRY, "sku", "Standard")]),
    ({"image": "other@sha256:" + "c" * 64}, [(CPU, f"{CONTAINER}.image", "existing/other@sha256:" + "c" * 64)]),
    ({"gpu_image": "other-gpu@sha256:" + "d" * 64}, [(GPU, f"{CONTAINER}.image", "existing/other-gpu@sha256:" + "d" * 64)]),
    ({"functions_image": {"repository": "other", "tag": "2"}}, [(FUNCTIONS, f"{IMAGE}.image_name", "other"), (FUNCTIONS, f"{IMAGE}.image_tag", "2")]),
    ({"cpu": {"vcpus": 0.25, "memory_gib": 0.5}}, [(CPU, f"{CONTAINER}.cpu", 0.25), (CPU, f"{CONTAINER}.memory", "0.5Gi")]),
    (
        {"scale": {"min_replicas": 0, "max_replicas": 1, "concurrent_requests": 1, "cooldown_seconds": 1}},
        [(CPU, f"{SCALE}.max_replicas", 1), (CPU, f"{SCALE}.cooldown_period_in_seconds", 1), (CPU, f"{SCALE}.http_scale_rule.0.concurrent_requests", "1")],
    ),
    (
        {"gpu": {"location": "westus3", "min_replicas": 0, "max_replicas": 1, "concurrent_requests": 1, "cooldown_seconds": 1}},
        [(GPU_ENVIRONMENT, "location", "westus3"), (GPU, f"{SCALE}.cooldown_period_in_seconds", 1), (GPU, f"{CONTAINER}.memory", "56Gi")],
    ),
    ({"functions": {"sku": "EP1", "min_instances": 1, "max_instances": 1}}, [(PLAN, "sku_name", "EP1"), (PLAN, "maximum_elastic_worker_count", 1)]),
    ({"request_timeout_seconds": 1}, [(CPU, f"{SCALE}.termination_grace_period_seconds", 11), (FUNCTIONS, "app_settings.REQUEST_TIMEOUT_S", "1")]),
    ({"log_retention_days": 30}, [(LOGS, "retention_in_days", 30)]),
    ({"log_daily_quota_gb": -1}, [(LOGS, "daily_quota_gb", -1)]),
    ({"alert_email": "a@b.c"}, [(MAIL, "email_receiver.0.email_address", "a@b.c")]),
    ({"api_keys_secret": None, "api_keys": [KEY]}, [(CPU, "secret.0.value", KEY), (FUNCTIONS, "app_settings.API_KEYS", KEY)]),
    ({"allowed_ip_ranges": ["0.0.0.0/0"]}, [(FUNCTIONS, "site_config.0.ip_restriction.0.ip_address", "0.0.0.0/0"), (CPU, "ingress.0.ip_security_restriction.0.name", "range-0-0-0-0-0")]),
    ({"otlp_endpoint": "http://c"}, [(FUNCTIONS, "app_settings.OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")]),
    ({"environment": {"MAX_LENGTH": "16"}}, [(FUNCTIONS, "app_settings.MAX_LENGTH", "16")]),
]
MOST = [
    ({"name": LONGEST}, [(CPU, "name", f"{LONGEST}-cpu"), (FUNCTIONS, "name", f"{LONGEST}-functions-abc123")]),
    ({"tags": TAGS}, [(CPU, "tags", {**TAGS, "application": "serverless-reranker"})]),
    ({"registry_sku": "Premium"}, [(REGISTRY, "sku", "Premium")]),
    ({"cpu": {"vcpus": 4, "memory_gib": 8}}, [(CPU, f"{CONTAINER}.memory", "8Gi")]),
    (
        {"scale": {"min_replicas": 300, "max_replicas": 300, "concurrent_requests": 1000, "cooldown_seconds": 3600}},
        [(CPU, f"{SCALE}.min_replicas", 300), (CPU, f"{SCALE}.cooldown_period_in_seconds", 3600)],
    ),
    (
        {"gpu": {"profile": "Consumption-GPU-NC24-A100", "min_replicas": 300, "max_replicas": 300, "concurrent_requests": 1000, "cooldown_seconds": 3600}},
        [(GPU, f"{CONTAINER}.cpu", 24), (GPU, f"{SCALE}.max_replicas", 300)],
    ),
    ({"functions": {"sku": "EP3", "min_instances": 20, "max_instances": 20}}, [(PLAN, "sku_name", "EP3"), (FUNCTIONS, "site_config.0.elastic_instance_minimum", 20)]),
    ({"request_timeout_seconds": 225}, [(CPU, f"{SCALE}.termination_grace_period_seconds", 235)]),
    ({"log_retention_days": 730}, [(LOGS, "retention_in_days", 730)]),
    ({"log_daily_quota_gb": 1000}, [(LOGS, "daily_quota_gb", 1000)]),
    ({"revision_mode": "Multiple", "traffic": {"latest": 0, "0000001": 100}}, [(CPU, "revision_mode", "Multiple"), (CPU, "ingress.0.traffic_weight.0.percentage", 100)]),
    ({"subnet_id": SUBNET, "external": False}, [(ENVIRONMENT, "infrastructure_subnet_id", SUBNET), (ENVIRONMENT, "internal_load_balancer_enabled", True), (GPU, "ingress.0.external_enabled", False)]),
]

# What the provider refuses must be refused here, too, or all that was planned says nothing.
REFUSED = '''
resource "azurerm_log_analytics_workspace" "this" {
  name                = "logs"
  resource_group_name = "group"
  location            = "westeurope"
  retention_in_days   = 7
}
resource "azurerm_container_app" "this" {
  name                         = "app"
  resource_group_name          = "group"
  container_app_environment_id = "/subscriptions/s/resourceGroups/r/providers/Microsoft.App/managedEnvironments/e"
  revision_mode                = "Single"
  template {
    max_replicas               = 301
    cooldown_period_in_seconds = 0
    container {
      name   = "reranker"
      image  = "reranker"
      cpu    = 1
      memory = "2Gi"
      startup_probe {
        transport = "http"
        port      = 8000
      }
    }
  }
}
'''
REFUSALS = ("retention_in_days: 7", "template.max_replicas: 301", "template.cooldown_period_in_seconds: 0", "startup_probe.transport: 'http'")


def at(values, path):
    for key in path.split("."):
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def planned(root, values):
    (root / "everything.auto.tfvars.json").write_text(json.dumps(values))
    terraform(root, "plan", "-input=false", "-no-color", "-out=changes.plan")
    changes = json.loads(terraform(root, "show", "-json", "changes.plan"))["resource_changes"]
    return {change["address"]: change["change"]["after"] for change in changes}


def main(root):
    known = set(re.findall(r'(?m)^variable "(\w+)"', (root / "variables.tf").read_text()))
    covered = {name for values, _ in LEAST + MOST for name in values}
    if covered | ELSEWHERE.keys() != known:
        sys.exit(f"variables of terraform/azure without a row in changes.py: {sorted(known - covered - ELSEWHERE.keys())}; rows without a variable: {sorted(covered - known)}")
    values = EVERYTHING["azure"]
    for rows in (LEAST, MOST):
        for change, _ in rows:
            values = {**values, **change}
        after = planned(root, values)
        wrong = [f"{change}: {address}.{path} is {at(after[address], path)!r}, not {wanted!r}"
                 for change, looks in rows for address, path, wanted in looks if at(after[address], path) != wanted]
        if wrong:
            sys.exit("\n".join(wrong))
    print(f"{len(covered)} variables change what is there, at the least and at the most that they take")
    refused(root)


def refused(root):
    folder = root / "refused"
    folder.mkdir(exist_ok=True)
    (folder / "main.tf").write_text((root / "versions.tf").read_text().partition("\nprovider ")[0] + REFUSED)
    terraform(folder, "init", "-backend=false", "-input=false", "-no-color")
    told = terraform(folder, "validate", "-no-color", fails=True)
    missing = [words for words in REFUSALS if words not in told]
    if missing:
        sys.exit(f"what azurerm refuses is taken: {missing}\n{told}")
    print(f"{len(REFUSALS)} values that azurerm refuses are refused")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
