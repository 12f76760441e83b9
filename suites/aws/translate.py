"""Turns template.yaml into what CloudFormation will see, once for each set of parameters below, and checks what linters cannot know.

    translate.py TEMPLATE FOLDER     writes FOLDER/NAME.json for each set

SAM's own resources hide what they become: cfn-lint looks at the result, where every property is a real one.
"""

import copy
import json
import logging
import os
import pathlib
import re
import sys

# samtranslator asks boto3 for a region's partition.
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

# It warns of metrics that it sends nowhere.
logging.disable(logging.WARNING)

KEYS = {"ApiKeysSecretArn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:reranker-AbCdEf"}
# Every branch of every condition is taken by one of them.
DEPLOYMENTS = {
    "smallest": KEYS,
    "everything": KEYS
    | {
        "ApiKeysVersionId": "EXAMPLE1-90ab-cdef-fedc-ba987EXAMPLE",
        "Start": "snap-start",
        "ReservedConcurrency": "10",
        "MemoryMb": "10240",
        "Architecture": "arm64",
        "Rollout": "Canary10Percent5Minutes",
        "ModelUri": "s3://models/bge-reranker-v2-m3/packed.safetensors",
        "KmsKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "Tracing": "Active",
        "Metrics": "full",
        "OtlpEndpoint": "https://collector.example.com:4318",
        "AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:alarms",
    },
    "provisioned": {"AllowAnonymous": "true", "Start": "provisioned-concurrency", "ProvisionedConcurrency": "2"},
}
# What the template's rules must refuse, and the rule that does.
REFUSED = {
    "NoOpenDoorByMistake": {},
    "SnapshotsKeepTheSmallTmp": KEYS | {"Start": "snap-start", "EphemeralStorageMb": "1024"},
    "ProvisionedMeansSome": KEYS | {"Start": "provisioned-concurrency"},
    "CountsAreForProvisioned": KEYS | {"Start": "snap-start", "ProvisionedConcurrency": "1"},
}


def parameters(template, chosen):
    values = {name: str(parameter.get("Default", "")) for name, parameter in template["Parameters"].items()}
    unknown = chosen.keys() - values.keys()
    assert not unknown, f"no such parameters: {unknown}"
    return values | chosen


def evaluate(expression, values):
    """The few functions that the template's rules and conditions are made of."""
    if not isinstance(expression, dict):
        return expression
    [(function, argument)] = expression.items()
    if function == "Ref":
        return values[argument]
    if function == "Fn::Equals":
        left, right = (evaluate(side, values) for side in argument)
        return left == right
    if function == "Fn::Not":
        return not evaluate(argument[0], values)
    raise ValueError(f"a rule or condition uses {function}, which this check does not know")


def broken_rules(template, values):
    return {
        name
        for name, rule in template["Rules"].items()
        if evaluate(rule["RuleCondition"], values)
        and not all(evaluate(assertion["Assert"], values) for assertion in rule["Assertions"])
    }


def resolved(node, conditions):
    """The node with each Fn::If replaced by the branch taken, and with what has no value left out."""
    if isinstance(node, dict):
        if node.keys() == {"Fn::If"}:
            condition, yes, no = node["Fn::If"]
            return resolved(yes if conditions[condition] else no, conditions)
        return {key: value for key, child in node.items() if (value := resolved(child, conditions)) != {"Ref": "AWS::NoValue"}}
    if isinstance(node, list):
        return [value for child in node if (value := resolved(child, conditions)) != {"Ref": "AWS::NoValue"}]
    return node


def references(node):
    """What the node's Ref and Fn::Sub name."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    names = {node["Ref"]} if "Ref" in node else set()
    if isinstance(node.get("Fn::Sub"), str):
        names |= set(re.findall(r"\$\{(\w+)\}", node["Fn::Sub"]))
    return names.union(*map(references, node.values()))


def translate(template, values):
    template = copy.deepcopy(template)
    # `sam build` and `sam deploy` put the pushed image's address here.
    template["Resources"]["Reranker"]["Properties"]["ImageUri"] = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker:tag"
    for name in ("Check", "OldVersions"):
        template["Resources"][name]["Properties"]["CodeUri"] = {"Bucket": "code", "Key": name}
    return Translator({}, Parser()).translate(template, values)


def only(resources, kind):
    found = [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def check(name, translated, values):
    conditions = {key: evaluate(condition, values) for key, condition in translated["Conditions"].items()}
    resources = {
        key: resolved(resource, conditions)
        for key, resource in translated["Resources"].items()
        if conditions.get(resource.get("Condition"), True)
    }
    function = resources["Reranker"]["Properties"]
    alias = only(resources, "AWS::Lambda::Alias")
    snapshots, provisioned = "SnapStart" in function, "ProvisionedConcurrencyConfig" in alias
    assert snapshots == (values["Start"] == "snap-start"), "SnapStart does not follow Start"
    assert provisioned == (values["Start"] == "provisioned-concurrency"), "provisioned concurrency does not follow Start"
    assert only(resources, "AWS::Lambda::Url")["AuthType"] == "AWS_IAM"
    assert only(resources, "AWS::Lambda::Url")["TargetFunctionArn"] == {"Ref": "RerankerAliaslive"}, "the URL must follow the alias"

    body = only(resources, "AWS::ApiGatewayV2::Api")["Body"]
    assert list(body["paths"]) == ["$default"], "one route takes everything"
    integration = body["paths"]["$default"]["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]
    called = json.dumps(integration["uri"])
    assert "${RerankerAliaslive}" in called, f"the HTTP API must call the alias, not {called}"

    # A parameter whose value a version keeps must make a new one.
    description = only(resources, "AWS::Lambda::Version")["Description"]["Fn::Sub"]
    kept = references({key: function[key] for key in function.keys() - {"ReservedConcurrentExecutions"}})
    by_hand = {"ApiKeysSecretArn", "ModelUri", "OtlpEndpoint", "KmsKeyArn"}
    forgotten = (kept & values.keys()) - by_hand - references({"Fn::Sub": description})
    assert not forgotten, f"{name}: a change of {forgotten} would publish no version"
    # CloudFormation replaces the version where its description changes, and Lambda refuses to publish one of a function that did not change.
    whole = copy.deepcopy(translated["Resources"]["Reranker"]["Properties"])
    # Two versions of a secret may have the same text.
    del whole["Environment"]["Variables"]["API_KEYS"]
    unchanged = references({"Fn::Sub": description}) - references(whole)
    assert not unchanged, f"{name}: a change of {unchanged} alone would fail, as the function stays the same"

    variables = function["Environment"]["Variables"]
    written = {key for key, value in variables.items() if not isinstance(value, dict)}
    assert written <= {"MODEL_DIR", "EMF_METRICS"}, f"a value stands in the template: {written}"
    assert ("API_KEYS" in variables) == bool(values["ApiKeysSecretArn"])
    assert (variables["MODEL_DIR"] != "/model") == bool(values["ModelUri"])

    policies = [policy for role in ("Role", "CheckRole", "OldVersionsRole") for policy in resources[role]["Properties"]["Policies"]]
    statements = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    for statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions), f"{name}: a wildcard in {actions}"
        assert statement["Resource"] != "*" or all(action.startswith("xray:") for action in actions), f"{name}: {actions} on everything"

    group = only(resources, "AWS::CodeDeploy::DeploymentGroup")
    watched = {alarm["Name"]["Ref"] for alarm in group["AlarmConfiguration"]["Alarms"]}
    by_version = {"NewVersionOwnErrorsAlarm"} if values["Metrics"] == "full" else set()
    assert watched == {"ErrorsAlarm", "ThrottlesAlarm", "OwnErrorsAlarm", "NewVersionErrorsAlarm", "NewVersionSlowAlarm"} | by_version, watched
    update = translated["Resources"]["RerankerAliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
    assert update["BeforeAllowTrafficHook"] == {"Ref": "Check"}, "a new version is asked before callers reach it"
    assert resources["Check"]["Properties"]["FunctionName"]["Fn::Sub"].startswith("CodeDeployHook_"), "CodeDeploy may call no other"

    caller = resources["CallerPolicy"]["Properties"]
    granted = {statement["Action"] for statement in caller["PolicyDocument"]["Statement"]}
    assert granted == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}, "callers of a Function URL need both"


def main():
    source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    template = yaml_parse(source.read_text())
    for name, chosen in DEPLOYMENTS.items():
        values = parameters(template, chosen)
        broken = broken_rules(template, values)
        assert not broken, f"{name}: refused by {broken}"
        translated = translate(template, values)
        check(name, translated, values)
        (folder / f"{name}.json").write_text(json.dumps(translated, indent=1) + "\n")
    for rule, chosen in REFUSED.items():
        broken = broken_rules(template, parameters(template, chosen))
        assert broken == {rule}, f"{chosen}: refused by {broken or 'nothing'}, not by {rule}"
    print(f"{source}: {len(DEPLOYMENTS)} deployments translated, {len(REFUSED)} wrong ones refused")


main()
