"""Which values the provider azurerm takes, as its schema alone does not say. Read from the source of azurerm 5.2.0 (August 2026), for what
terraform/ sets. provider.py holds every plan and test to them.
"""

import ipaddress
import json
import re


def between(least, most):
    return lambda value: least <= value <= most, f"from {least} to {most}"


def at_least(least):
    return lambda value: value >= least, f"at least {least}"


def one_of(*known):
    return lambda value: value in known, f"one of {', '.join(known)}"


def like(pattern, without=None):
    """All of a text; `without` is what must not be in it."""
    said = f"like {pattern}" + (f", without {without}" if without else "")
    return lambda value: re.fullmatch(pattern, value) is not None and (without is None or without not in value), said


def length(least, most):
    return lambda value: least <= len(value) <= most, f"of {least} to {most} characters"


def parsed(parse, said):
    def holds(value):
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return holds, said


SOME = length(1, 1 << 20)
CIDR = parsed(lambda value: ipaddress.ip_network(value, strict=False), "an address or a range of addresses")
SUBNET = like(r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/virtualNetworks/[^/]+/subnets/[^/]+")
TAGS = (lambda tags: len(tags) <= 50 and all(len(key) <= 512 and len(value) <= 256 for key, value in tags.items() if isinstance(value, str)),
        "at most 50, with names of 512 and values of 256 characters")
GROUP = like(r"[-\w._()]{1,90}(?<!\.)")
PROBE = {"transport": one_of("TCP", "HTTP", "HTTPS"), "port": between(1, 65535), "interval_seconds": between(1, 240), "timeout": between(1, 240)}
PROBES = {
    **{f"startup_probe.{name}": rule for name, rule in {**PROBE, "failure_count_threshold": between(1, 240)}.items()},
    **{f"liveness_probe.{name}": rule for name, rule in {**PROBE, "failure_count_threshold": between(1, 30)}.items()},
    **{f"readiness_probe.{name}": rule for name, rule in {**PROBE, "failure_count_threshold": between(1, 48), "success_count_threshold": between(1, 10)}.items()},
}
TIMES = ("PT1M", "PT5M", "PT15M", "PT30M", "PT1H")

# Resource: {its arguments, those of blocks after dots: (what holds, how that is said)}.
RULES = {
    "azurerm_application_insights_workbook": {
        "name": like(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        "data_json": parsed(json.loads, "JSON"),
        "source_id": like(r"[^A-Z]*"),
    },
    "azurerm_container_app": {
        "name": like(r"[a-z]|[a-z0-9][a-z0-9.-]{0,30}[a-z0-9_]", without="--"),
        "revision_mode": one_of("Single", "Multiple"),
        "max_inactive_revisions": between(0, 100),
        "workload_profile_name": SOME,
        "registry.server": SOME,
        "secret.name": like(r"[a-z0-9][a-z0-9-]{0,251}[a-z0-9]?"),
        "secret.key_vault_secret_id": like(r"https://[^/]+/secrets/[0-9A-Za-z-]{1,127}(/[0-9a-f]+)?"),
        "ingress.target_port": between(1, 65535),
        "ingress.transport": one_of("auto", "http", "http2", "tcp"),
        "ingress.traffic_weight.percentage": between(0, 100),
        "ingress.traffic_weight.revision_suffix": SOME,
        "ingress.ip_security_restriction.action": one_of("Allow", "Deny"),
        "ingress.ip_security_restriction.ip_address_range": CIDR,
        "ingress.ip_security_restriction.name": SOME,
        "template.min_replicas": between(0, 300),
        "template.max_replicas": between(1, 300),
        "template.cooldown_period_in_seconds": at_least(1),
        "template.termination_grace_period_seconds": between(0, 600),
        "template.http_scale_rule.concurrent_requests": like(r"0*[1-9][0-9]*"),
        "template.container.name": like(r"[a-z0-9]([a-z0-9.-]{0,44}[a-z0-9_])?"),
        "template.container.image": SOME,
        "template.container.cpu": at_least(0.1),
        "template.container.memory": SOME,
        "template.container.env.name": SOME,
        **{f"template.container.{name}": rule for name, rule in PROBES.items()},
    },
    "azurerm_container_app_environment": {
        "name": like(r"[a-zA-Z0-9][a-zA-Z0-9-]{1,58}[a-zA-Z0-9]?"),
        "logs_destination": one_of("azure-monitor", "log-analytics"),
        "infrastructure_subnet_id": SUBNET,
    },
    "azurerm_container_registry": {"name": like(r"[a-zA-Z0-9]{5,50}"), "sku": one_of("Basic", "Standard", "Premium")},
    "azurerm_linux_function_app": {
        "name": like(r"[0-9a-zA-Z-]{1,60}"),
        "site_config.health_check_eviction_time_in_min": between(2, 10),
        "site_config.ftps_state": one_of("AllAllowed", "Disabled", "FtpsOnly"),
        "site_config.ip_restriction_default_action": one_of("Allow", "Deny"),
        "site_config.minimum_tls_version": one_of("1.0", "1.1", "1.2", "1.3"),
        "site_config.scm_minimum_tls_version": one_of("1.0", "1.1", "1.2", "1.3"),
        "site_config.ip_restriction.action": one_of("Allow", "Deny"),
        "site_config.ip_restriction.ip_address": CIDR,
        "site_config.ip_restriction.name": SOME,
        "site_config.ip_restriction.priority": between(1, 2**31 - 1),
    },
    "azurerm_log_analytics_workspace": {
        "name": like(r"[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]"),
        "retention_in_days": between(30, 730),
        "daily_quota_gb": at_least(-1),
    },
    "azurerm_monitor_action_group": {"name": SOME, "short_name": length(1, 12), "email_receiver.name": SOME, "email_receiver.email_address": SOME},
    "azurerm_monitor_metric_alert": {
        "name": SOME,
        "severity": between(0, 4),
        "frequency": one_of(*TIMES),
        "window_size": one_of(*TIMES, "PT6H", "PT12H", "P1D"),
        "criteria.aggregation": one_of("Average", "Count", "Minimum", "Maximum", "Total"),
        "criteria.operator": one_of("Equals", "GreaterThan", "GreaterThanOrEqual", "LessThan", "LessThanOrEqual"),
        "criteria.dimension.operator": one_of("Include", "Exclude", "StartsWith"),
    },
    "azurerm_monitor_scheduled_query_rules_alert_v2": {
        "severity": between(0, 4),
        "evaluation_frequency": one_of(*TIMES, "PT10M", "PT45M", "PT2H", "PT3H", "PT4H", "PT5H", "PT6H", "P1D"),
        "window_duration": one_of(*TIMES, "PT10M", "PT45M", "PT2H", "PT3H", "PT4H", "PT5H", "PT6H", "P1D", "P2D"),
    },
    "azurerm_resource_group": {"name": GROUP},
    "azurerm_service_plan": {
        "name": like(r"[0-9a-zA-Z_-]{1,60}"),
        "sku_name": one_of("B1", "B2", "B3", "EP1", "EP2", "EP3", "FC1", "P0v3", "P1v3", "P2v3", "P3v3", "S1", "S2", "S3", "Y1"),
        "maximum_elastic_worker_count": at_least(0),
    },
    "azurerm_storage_account": {"name": like(r"[a-z0-9]{3,24}"), "min_tls_version": one_of("TLS1_2")},
}
# Of whatever has them.
EVERYWHERE = {"tags": TAGS, "resource_group_name": GROUP}


def found(values, path):
    """Every value at a path, through blocks that may be there several times. What is not known yet is not there."""
    key, _, rest = path.partition(".")
    value = values.get(key)
    if value is None:
        return
    elements = value if isinstance(value, list) else [value]
    if not rest:
        yield from (element for element in elements if isinstance(element, (str, int, float, dict)))
        return
    for element in elements:
        if isinstance(element, dict):
            yield from found(element, rest)


def faults(kind, values):
    """What of a resource's arguments the provider would refuse."""
    for path, (holds, said) in {**EVERYWHERE, **RULES.get(kind, {})}.items():
        for value in found(values, path):
            if not holds(value):
                yield f"{kind}.{path}: {value!r} is not {said}"
