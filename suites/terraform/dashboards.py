"""Holds dashboards and alarms to what they look at: metrics that the program, a filter or the platform gives, fields of the program's log, and
a row for each alarm in docs/operations.md.

    dashboards.py       nothing is said where all is right
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What AWS documents for a function, its alias and an HTTP API, as far as we look at it.
OF_AWS = {
    "AWS/Lambda": {"Errors", "Throttles", "Duration", "ConcurrentExecutions", "ProvisionedConcurrencySpilloverInvocations", "Url5xxCount"},
    "AWS/ApiGateway": {"Latency", "5xx"},
    "AWS/States": {"ExecutionsFailed"},
    # Of the service itself, in CloudWatch's embedded metric format.
    "serverless-reranker": {"ServerErrors"},
}
# An alarm's name, and the beginning of its row in docs/operations.md.
ROWS = {
    "errors": "errors (Lambda",
    "throttles": "throttles (Lambda)",
    "slow": "slow (p99",
    "server-errors": "own server errors",
    "new-version-errors": "new version",
    "new-version-server-errors": "new version",
    "new-version-slow": "new version",
    "api-server-errors": "server errors (5xx",
    "url-server-errors": "server errors (5xx",
    "slow-start": "slow start",
    "failed": "bulk failed",
}
OF_AZURE = {name: f"{name} (Container Apps" for name in ("errors", "restarts", "slow", "full")} | {
    "log_quota": "log quota (Azure)", "functions-errors": "functions-errors (Functions)", "functions-unhealthy": "functions-unhealthy (Functions)",
}


def read(path):
    return (ROOT / path).read_text()


def program_metrics():
    """What /metrics gives, by the names that Prometheus knows: src/telemetry/metrics.rs registers each."""
    text = read("src/telemetry/metrics.rs").partition("#[cfg(test)]")[0]
    of_process, counters, gauges, histograms, infos = set(), set(), set(), set(), set()
    for place, name, rest in re.findall(r'(all|ours)\s*\.register\(\s*"(\w+)",(.*?)\);', text, re.S):
        if name.startswith("process_"):
            of_process.add(name)
        elif "Info::new" in rest:
            infos.add(f"reranker_{name}_info")
        elif is_gauge(text, name, rest):
            gauges.add(f"reranker_{name}")
        else:
            counters.add(f"reranker_{name}_total")
    for field, name in re.findall(r'let (\w+) = add\(\s*all,\s*"(\w+)"', text):
        if re.search(rf"^    {field}: Gauge,", text, re.M):
            gauges.add(f"reranker_{name}")
        else:
            counters.add(f"reranker_{name}_total")
    for name in re.findall(r'timed\(\s*all,\s*"(\w+)"', text):
        histograms |= {f"reranker_{name}_seconds_{part}" for part in ("bucket", "sum", "count")}
    return of_process | counters | gauges | histograms | infos


def is_gauge(text, name, rest):
    """A gauge is what was made as one: in place, or in the lines before."""
    if "ConstGauge" in rest:
        return True
    before = text[: text.index(f'"{name}"')]
    made = max(before.rfind("ConstGauge::new"), 0), max(before.rfind("ConstCounter::new"), 0)
    return made[0] > made[1]


def grafana():
    known = program_metrics()
    assert len(known) > 30, f"only {len(known)} metrics were found in src/telemetry/metrics.rs"
    panels = json.loads(read("dashboards/grafana.json"))["panels"]
    for panel in panels:
        for target in panel["targets"]:
            used = set(re.findall(r"\b(?:reranker|process)_\w+", target["expr"]))
            assert used, f"{panel['title']} looks at nothing"
            yield from (f"dashboards/grafana.json: {panel['title']}: no metric is named {name}" for name in used - known)
    rules = re.findall(r"^    .*(?:reranker|process)_.*$", read("docs/operations.md"), re.M)
    for rule in rules:
        used = set(re.findall(r"\b(?:reranker|process)_\w+", rule)) - {"reranker_bulk"}
        yield from (f"docs/operations.md: no metric is named {name}" for name in used - known)


def log_fields():
    line = re.search(r"tracing::\$level!\((.*?)\"request\"\)", read("src/http/observe.rs"), re.S)[1]
    return {"message"} | set(re.findall(r"\w+", line))


def cloudwatch():
    module = "terraform/modules/lambda/"
    alarms, dashboard = read(module + "alarms.tf"), read(module + "dashboard.tf")
    ours = set(re.findall(r"^    (\w+) += \{ where", alarms, re.M)) | set(re.findall(r"(\w+) = \"(?:init|restore)DurationMs", alarms))
    known = OF_AWS | {"ours": ours}
    assert len(ours) == 7, ours
    used = [(name, "ours") for name in re.findall(r"namespace += local\.metrics, metric = (?:\S+ == \S+ \? \"\w+\" : )?\"(\w+)\"", alarms)]
    used += [(name, space) for space, name in re.findall(r'namespace\s+= "(AWS/\w+|serverless-reranker)", metric = "(\w+)"', alarms)]
    used += [(name, space) for space, name in re.findall(r'\["(AWS/\w+)", "(\w+)"', dashboard)]
    for names, rest in re.findall(r"for name in \[([^]]*)\] : (.*)$", dashboard, re.M):
        space = re.search(r'"(AWS/\w+)"', rest)
        used += [(name, space[1] if space else "ours") for name in re.findall(r'"(\w+)"', names)]
    used += [(name, "ours") for name in re.findall(r'\[local\.metrics, "(\w+)"', dashboard)]
    assert len(used) > 15, used
    yield from (f"{module}: {space} has no metric {name}" for name, space in used if name not in known[space])
    template = read("template.yaml")
    filters = set(re.findall(r"^  (\w+):\n    Type: AWS::Logs::MetricFilter", template, re.M))
    if filters != ours:
        yield f"template.yaml counts {sorted(filters)}, {module} {sorted(ours)}"
    fields = log_fields()
    for path in (module + "alarms.tf", module + "dashboard.tf", "template.yaml"):
        for pattern in re.findall(r'\$\.message = \\?"request\\?"(.*)', read(path)):
            yield from (f"{path}: the log's line has no {name}" for name in re.findall(r"\$\.(\w+)", pattern) if name not in fields)
    shown = re.search(r"display (.*?)\"", dashboard)[1]
    yield from (f"{module}dashboard.tf: the log's line has no {name}" for name in re.findall(r"\b\w+", shown.replace("@timestamp", "")) if name not in fields)


def workbook():
    fields = log_fields()
    text = read("terraform/azure/workbook.json")
    json.loads(text)
    used = set(re.findall(r"\bline\.(\w+)", text))
    assert len(used) > 5, used
    yield from (f"terraform/azure/workbook.json: the log's line has no {name}" for name in used - fields)


def rows():
    table = re.findall(r"^\| ([^|]+) \|", read("docs/operations.md").partition("## Alarms")[2], re.M)
    of_lambda = re.findall(r"^    ([\w-]+) = \{\n      description", read("terraform/modules/lambda/alarms.tf"), re.M) + ["failed"]
    of_azure = re.findall(r"^    (\w+) = \{\n      description", read("terraform/modules/container-app/alerts.tf"), re.M)
    of_azure += re.findall(r"^    ([\w-]+) = \{\n      description", read("terraform/modules/functions/alerts.tf"), re.M)
    of_azure += re.findall(r'^resource "azurerm_monitor_scheduled_query_rules_alert_v2" "(\w+)"', read("terraform/azure/main.tf"), re.M)
    assert len(of_lambda) > 8 and len(of_azure) == 7, (of_lambda, of_azure)
    for names, expected in ((of_lambda, ROWS), (of_azure, OF_AZURE)):
        for name in names:
            if not any(row.startswith(expected.get(name, "?")) for row in table):
                yield f"docs/operations.md has no row for the alarm {name}"


faults = [*grafana(), *cloudwatch(), *workbook(), *rows()]
sys.exit("\n".join(faults) or None)
