"""CloudFormation of the local AWS, as the SAM CLI and the AWS CLI ask it.

moto's own knows neither SAM's transform nor what changes in place and what is replaced. Here SAM's translator, the registry's schemas (cfn-lint) and
AWS's documents decide:

- a change of a create-only property replaces a resource, and a replaced one with a name of its own is refused;
- what left the template, or was replaced, is deleted where no policy retains it;
- Lambda publishes no version of a function that did not change since the last one;
- CodeDeploy moves no alias that is not at the version from which it is to be moved.

Functions, versions, aliases, HTTP APIs, roles, log groups and buckets are made in moto, where calls reach them. Of everything else the properties
are kept.
"""

import copy
import datetime
import json
import pathlib
import re
import threading
import time
import urllib.parse
import uuid
from xml.sax.saxutils import escape

import boto3
import botocore.config
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

ACCOUNT = "123456789012"
NO_VALUE = {"Ref": "AWS::NoValue"}
# What an update sets a property back to that the template has no more.
FUNCTION_DEFAULTS = {"KMSKeyArn": "", "SnapStart": {"ApplyOn": "None"}}


class Refused(Exception):
    """What CloudFormation answers, or writes into the events of a stack."""


class Clients:
    def __init__(self, endpoint, region):
        self.endpoint, self.region, self.made = endpoint, region, {}

    def __call__(self, service):
        if service not in self.made:
            self.made[service] = boto3.client(service, region_name=self.region, endpoint_url=self.endpoint, aws_access_key_id="test",
                                              aws_secret_access_key="test", config=botocore.config.Config(proxies={}))
        return self.made[service]


# ---- kinds of resources: what makes, changes and deletes one; `made` is its Ref and its attributes

class Kept:
    """Of the properties alone."""

    def __init__(self, clients, stack, logical):
        self.clients, self.stack, self.logical = clients, stack, logical

    def named(self):
        return f"{self.stack}-{self.logical}-{uuid.uuid4().hex[:12].upper()}"

    def create(self, properties):
        name = self.named()
        return name, {"Arn": f"arn:aws:kept:{self.clients.region}:{ACCOUNT}:{name}", "FunctionUrl": f"https://{name.lower()}.lambda-url.{self.clients.region}.on.aws/"}

    def update(self, physical, properties, before):
        pass

    def delete(self, physical, properties):
        pass


class Role(Kept):
    def create(self, properties):
        name = self.named()[-64:]
        role = self.clients("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(properties["AssumeRolePolicyDocument"]))
        return name, {"Arn": role["Role"]["Arn"]}

    def delete(self, physical, properties):
        self.clients("iam").delete_role(RoleName=physical)


class LogGroup(Kept):
    def create(self, properties):
        self.clients("logs").create_log_group(logGroupName=properties["LogGroupName"])
        self.update(properties["LogGroupName"], properties, {})
        return properties["LogGroupName"], {"Arn": f"arn:aws:logs:{self.clients.region}:{ACCOUNT}:log-group:{properties['LogGroupName']}:*"}

    def update(self, physical, properties, before):
        self.clients("logs").put_retention_policy(logGroupName=physical, retentionInDays=int(properties["RetentionInDays"]))

    def delete(self, physical, properties):
        self.clients("logs").delete_log_group(logGroupName=physical)


class Bucket(Kept):
    def create(self, properties):
        name = self.named().lower()
        self.clients("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": self.clients.region})
        return name, {"Arn": f"arn:aws:s3:::{name}"}

    def delete(self, physical, properties):
        self.clients("s3").delete_bucket(Bucket=physical)


class Function(Kept):
    def asked(self, properties):
        """As Lambda's API has them: code, configuration, and what is neither."""
        settings = {name: value for name, value in properties.items() if name not in ("Code", "Tags", "ReservedConcurrentExecutions", "FunctionName")}
        if "KmsKeyArn" in settings:
            settings["KMSKeyArn"] = settings.pop("KmsKeyArn")
        for name in ("MemorySize", "Timeout"):
            settings[name] = int(settings[name]) if name in settings else 128 if name == "MemorySize" else 3
        if "EphemeralStorage" in settings:
            settings["EphemeralStorage"] = {"Size": int(settings["EphemeralStorage"]["Size"])}
        if "Environment" in settings:
            settings["Environment"] = {"Variables": {name: str(value) for name, value in settings["Environment"]["Variables"].items()}}
        return properties["Code"], settings, properties.get("ReservedConcurrentExecutions")

    def reserve(self, name, reserved):
        if reserved is None:
            self.clients("lambda").delete_function_concurrency(FunctionName=name)
        else:
            self.clients("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=int(reserved))

    def create(self, properties):
        code, settings, reserved = self.asked(properties)
        name = properties["FunctionName"]
        made = self.clients("lambda").create_function(FunctionName=name, Code=code, **settings)
        if reserved is not None:
            self.reserve(name, reserved)
        return name, {"Arn": made["FunctionArn"]}

    def update(self, physical, properties, before):
        code, settings, reserved = self.asked(properties)
        code_before, settings_before, reserved_before = self.asked(before)
        architectures = {"Architectures": settings.pop("Architectures")} if "Architectures" in settings else {}
        architectures_before = {"Architectures": settings_before.pop("Architectures")} if "Architectures" in settings_before else {}
        settings.pop("PackageType", None)
        settings_before.pop("PackageType", None)
        if (code, architectures) != (code_before, architectures_before):
            self.clients("lambda").update_function_code(FunctionName=physical, **code, **architectures)
        if settings != settings_before:
            gone = {name: FUNCTION_DEFAULTS[name] for name in settings_before.keys() - settings.keys()}
            self.clients("lambda").update_function_configuration(FunctionName=physical, **settings, **gone)
        if reserved != reserved_before:
            self.reserve(physical, reserved)

    def delete(self, physical, properties):
        self.clients("lambda").delete_function(FunctionName=physical)


class Version(Kept):
    def create(self, properties):
        name = properties["FunctionName"]
        pages = self.clients("lambda").get_paginator("list_versions_by_function").paginate(FunctionName=name)
        known = {each["Version"] for page in pages for each in page["Versions"]}
        made = self.clients("lambda").publish_version(FunctionName=name, Description=properties.get("Description", ""))
        if made["Version"] in known:
            raise Refused(f"A version for this Lambda function exists ( {made['Version']} ). Modify the function to create a new version.")
        arn = made["FunctionArn"]
        return arn if arn.endswith(f":{made['Version']}") else f"{arn}:{made['Version']}", {"Version": made["Version"]}

    def delete(self, physical, properties):
        name, version = physical.rsplit(":", 2)[1:]
        try:
            self.clients("lambda").delete_function(FunctionName=name, Qualifier=version)
        except self.clients("lambda").exceptions.ResourceNotFoundException:
            # It went with its function.
            pass


class Alias(Kept):
    def provision(self, properties):
        wanted = properties.get("ProvisionedConcurrencyConfig")
        named = {"FunctionName": properties["FunctionName"], "Qualifier": properties["Name"]}
        if wanted:
            count = int(wanted["ProvisionedConcurrentExecutions"])
            self.clients("lambda").put_provisioned_concurrency_config(**named, ProvisionedConcurrentExecutions=count)
        else:
            self.clients("lambda").delete_provisioned_concurrency_config(**named)

    def create(self, properties):
        named = {name: properties[name] for name in ("FunctionName", "FunctionVersion", "Name")}
        arn = self.clients("lambda").create_alias(**named)["AliasArn"]
        if "ProvisionedConcurrencyConfig" in properties:
            self.provision(properties)
        return arn, {}

    def move(self, properties, before, policy):
        """By CodeDeploy where the policy says so."""
        named = {"FunctionName": properties["FunctionName"], "Name": properties["Name"]}
        if "CodeDeployLambdaAliasUpdate" in (policy or {}):
            found = self.clients("lambda").get_alias(**named)
            if found["FunctionVersion"] != before["FunctionVersion"] or (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights"):
                raise Refused("The deployment failed because the AppSpec file that specifies the AWS Lambda deployment configuration is missing or has an invalid "
                              "configuration. The Lambda function alias version does not match the current version in AppSpec file. "
                              "(Error code: INVALID_LAMBDA_CONFIGURATION)")
        self.clients("lambda").update_alias(**named, FunctionVersion=properties["FunctionVersion"], RoutingConfig={"AdditionalVersionWeights": {}})

    def update(self, physical, properties, before, policy=None):
        if properties["FunctionVersion"] != before["FunctionVersion"]:
            self.move(properties, before, policy)
        if properties.get("ProvisionedConcurrencyConfig") != before.get("ProvisionedConcurrencyConfig"):
            self.provision(properties)

    def delete(self, physical, properties):
        self.clients("lambda").delete_alias(FunctionName=properties["FunctionName"], Name=properties["Name"])


class HttpApi(Kept):
    """One integration behind the default route, as SAM's body has it."""

    @staticmethod
    def called(properties):
        return properties["Body"]["paths"]["$default"]["x-amazon-apigateway-any-method"]["x-amazon-apigateway-integration"]["uri"]

    def create(self, properties):
        client = self.clients("apigatewayv2")
        api = client.create_api(Name=properties.get("Name") or properties["Body"]["info"]["title"], ProtocolType="HTTP")["ApiId"]
        made = client.create_integration(ApiId=api, IntegrationType="AWS_PROXY", IntegrationUri=self.called(properties), PayloadFormatVersion="2.0")
        client.create_route(ApiId=api, RouteKey="$default", Target=f"integrations/{made['IntegrationId']}")
        return api, {"ApiEndpoint": f"https://{api}.execute-api.{self.clients.region}.amazonaws.com"}

    def update(self, physical, properties, before):
        if self.called(properties) != self.called(before):
            client = self.clients("apigatewayv2")
            [found] = client.get_integrations(ApiId=physical)["Items"]
            client.update_integration(ApiId=physical, IntegrationId=found["IntegrationId"], IntegrationUri=self.called(properties))

    def delete(self, physical, properties):
        self.clients("apigatewayv2").delete_api(ApiId=physical)


KINDS = {
    "AWS::IAM::Role": Role,
    "AWS::Logs::LogGroup": LogGroup,
    "AWS::S3::Bucket": Bucket,
    "AWS::Lambda::Function": Function,
    "AWS::Lambda::Version": Version,
    "AWS::Lambda::Alias": Alias,
    "AWS::ApiGatewayV2::Api": HttpApi,
}


# ---- what the registry knows of a kind

def schema(kind):
    return PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema


def at(node, path):
    for key in path:
        if not isinstance(node, dict):
            return node
        node = node.get(key)
    return node


def paths(kind, entry):
    return [path.split("/")[2:] for path in schema(kind).get(entry, [])]


def replaced_by(kind, before, after):
    """The create-only properties that differ."""
    return [".".join(path) for path in paths(kind, "createOnlyProperties") if at(before, path) != at(after, path)]


def has_own_name(kind, properties):
    """Whether the template itself names the resource, so that there can't be two."""
    return all(at(properties, path) is not None for path in paths(kind, "primaryIdentifier"))


# ---- templates

def parsed(text):
    return json.loads(text) if text.lstrip().startswith("{") else yaml_parse(text)


def references(node):
    """The logical ids that a node names."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    found = {node["Ref"]} if isinstance(node.get("Ref"), str) else set()
    if "Fn::GetAtt" in node:
        attribute = node["Fn::GetAtt"]
        found.add(attribute.partition(".")[0] if isinstance(attribute, str) else attribute[0])
    if "Fn::Sub" in node:
        text = node["Fn::Sub"] if isinstance(node["Fn::Sub"], str) else node["Fn::Sub"][0]
        found |= {name.partition(".")[0] for name in re.findall(r"\$\{([^!}]+)\}", text)}
    return found.union(*map(references, node.values()))


def ordered(resources):
    """What is named comes first."""
    done, left = [], dict(resources)
    while left:
        ready = []
        for logical, resource in left.items():
            needed = references({key: value for key, value in resource.items() if key in ("Properties", "UpdatePolicy")})
            after = resource.get("DependsOn", [])
            needed |= {after} if isinstance(after, str) else set(after)
            if not (needed - {logical}) & left.keys():
                ready.append(logical)
        if not ready:
            raise Refused(f"Circular dependency between resources: {sorted(left)}")
        done += ready
        for logical in ready:
            del left[logical]
    return done


def checked(template, values):
    """Parameters as CloudFormation takes them, and the template's rules."""
    for name, value in values.items():
        rule = template["Parameters"][name]
        if "AllowedValues" in rule and value not in map(str, rule["AllowedValues"]):
            raise Refused(f"Parameter '{name}' must be one of AllowedValues")
        if "AllowedPattern" in rule and not re.search(rule["AllowedPattern"], value):
            raise Refused(f"Parameter {name} failed to satisfy constraint: {rule['AllowedPattern']}")
        if rule["Type"] == "Number" and not float(rule.get("MinValue", "-inf")) <= float(value) <= float(rule.get("MaxValue", "inf")):
            raise Refused(f"Parameter '{name}' must be a number between {rule.get('MinValue')} and {rule.get('MaxValue')}")
    scope = Scope(None, values, {}, {})
    for name, rule in template.get("Rules", {}).items():
        if scope.true(rule["RuleCondition"]) and not all(scope.true(each["Assert"]) for each in rule["Assertions"]):
            raise Refused(f"Template validation error: {name}: {rule['Assertions'][0]['AssertDescription']}")


class Scope:
    """What the functions of a template stand for."""

    def __init__(self, stack, values, conditions, made):
        self.stack, self.values, self.conditions, self.made = stack, values, conditions, made

    def true(self, node):
        if "Condition" in node:
            return self.true(self.conditions[node["Condition"]])
        [(function, argument)] = node.items()
        if function == "Fn::Equals":
            left, right = (self.resolve(side) for side in argument)
            return str(left) == str(right)
        if function == "Fn::Not":
            return not self.true(argument[0])
        if function in ("Fn::And", "Fn::Or"):
            return (all if function == "Fn::And" else any)(self.true(each) for each in argument)
        raise Refused(f"{function} is no condition that this CloudFormation knows")

    def ref(self, name):
        pseudo = {"AWS::Partition": "aws", "AWS::AccountId": ACCOUNT, "AWS::URLSuffix": "amazonaws.com"}
        if self.stack:
            pseudo |= {"AWS::Region": self.stack.clients.region, "AWS::StackName": self.stack.name, "AWS::StackId": self.stack.id}
        if name in pseudo:
            return pseudo[name]
        if name in self.values:
            return self.values[name]
        return self.made[name].physical

    def attribute(self, name, key):
        return self.made[name].attributes[key]

    def resolve(self, node):
        if isinstance(node, list):
            return [value for each in node if (value := self.resolve(each)) != NO_VALUE]
        if isinstance(node, str):
            return self.secrets(node)
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            [(function, argument)] = node.items()
            if node == NO_VALUE:
                return NO_VALUE
            match function:
                case "Ref":
                    return self.ref(argument)
                case "Fn::GetAtt":
                    name, key = argument.split(".", 1) if isinstance(argument, str) else argument
                    return self.attribute(name, key)
                case "Fn::If":
                    condition, yes, no = argument
                    return self.resolve(yes if self.true(self.conditions[condition]) else no)
                case "Fn::Sub":
                    text, more = (argument, {}) if isinstance(argument, str) else argument
                    more = {name: self.resolve(value) for name, value in more.items()}
                    return self.secrets(re.sub(r"\$\{([^!}]+)\}", lambda found: str(self.named(found[1], more)), text))
                case "Fn::Join":
                    return argument[0].join(str(self.resolve(each)) for each in self.resolve(argument[1]))
                case "Fn::Split":
                    return self.resolve(argument[1]).split(argument[0])
                case "Fn::Select":
                    return self.resolve(argument[1])[int(argument[0])]
        return {key: value for key, child in node.items() if (value := self.resolve(child)) != NO_VALUE}

    def named(self, name, more):
        if name in more:
            return more[name]
        if "." in name and "::" not in name:
            return self.attribute(*name.split(".", 1))
        return self.ref(name)

    def secrets(self, text):
        def secret(found):
            identity, _, version = found[1].partition(":SecretString")
            version = version.lstrip(":")
            named = {"SecretId": identity} | ({"VersionId": version} if version else {})
            return self.stack.clients("secretsmanager").get_secret_value(**named)["SecretString"]

        return re.sub(r"\{\{resolve:secretsmanager:(.+?)\}\}", secret, text) if self.stack else text


class Resource:
    def __init__(self, kind, properties, physical, attributes, template):
        self.kind, self.properties, self.physical, self.attributes = kind, properties, physical, attributes
        self.policy = template.get("DeletionPolicy")


class Stack:
    def __init__(self, name, clients):
        self.name, self.clients = name, clients
        self.id = f"arn:aws:cloudformation:{clients.region}:{ACCOUNT}:stack/{name}/{uuid.uuid4()}"
        self.status, self.text, self.processed, self.values = "REVIEW_IN_PROGRESS", "", {"Resources": {}}, {}
        self.resources, self.outputs, self.tags, self.events = {}, [], [], []
        self.cancelled = False

    def event(self, status, logical=None, kind="AWS::CloudFormation::Stack", physical=None, reason=None):
        logical, physical = logical or self.name, physical or self.id
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        self.events.insert(0, {"StackId": self.id, "EventId": str(uuid.uuid4()), "StackName": self.name, "LogicalResourceId": logical, "PhysicalResourceId": physical,
                               "ResourceType": kind, "Timestamp": now, "ResourceStatus": status, "ResourceStatusReason": reason})

    def become(self, status, reason=None):
        self.status = status
        self.event(status, reason=reason)

    def merged(self, template, given):
        """The parameters' values: given, kept, or by default."""
        found = {}
        for name, rule in template.get("Parameters", {}).items():
            asked = given.get(name, {})
            if "ParameterValue" in asked:
                found[name] = asked["ParameterValue"]
            elif asked.get("UsePreviousValue") == "true" and name in self.values:
                found[name] = self.values[name]
            elif "Default" in rule:
                found[name] = str(rule["Default"])
            else:
                raise Refused(f"Parameters: [{name}] must have values")
        unknown = given.keys() - template.get("Parameters", {}).keys()
        if unknown:
            raise Refused(f"Parameters: {sorted(unknown)} do not exist in the template")
        return found

    def prepared(self, text, given):
        template = parsed(text)
        values = self.merged(template, given)
        checked(template, values)
        if "Transform" in template:
            # Its own parameters for what it writes out, and the rules stay for CloudFormation.
            template = Translator({}, Parser(), boto_session=boto3.Session(region_name=self.clients.region)).translate(copy.deepcopy(template), dict(values))
        return template, values

    def changes(self, template, values):
        """[(action, logical id, kind)]: of what is written differently, or names a parameter or a resource that changes."""
        old, new = self.processed["Resources"], template["Resources"]
        touched = {name for name, value in values.items() if self.values.get(name) != value}
        conditions = template.get("Conditions", {})
        touched |= {name for name, condition in conditions.items() if references(condition) & touched}
        found = []
        for logical in ordered(new):
            named = references(new[logical]) | set(re.findall(r'"Fn::If": \["(\w+)"', json.dumps(new[logical])))
            if logical not in old:
                found.append(("Add", logical, new[logical]["Type"]))
            elif old[logical] != new[logical] or named & touched:
                found.append(("Modify", logical, new[logical]["Type"]))
            else:
                continue
            touched.add(logical)
        return found + [("Remove", logical, old[logical]["Type"]) for logical in old if logical not in new]

    # ---- one operation

    def handler(self, kind, logical):
        return KINDS.get(kind, Kept)(self.clients, self.name, logical)

    def one(self, logical, resource, properties, undo, leftovers):
        kind = resource["Type"]
        handler, before = self.handler(kind, logical), self.resources.get(logical)
        if before and before.kind == kind and properties == before.properties:
            before.policy = resource.get("DeletionPolicy")
            return
        replaced = replaced_by(kind, before.properties, properties) if before else []
        if before and before.kind == kind and not replaced:
            arguments = [before.physical, properties, before.properties]
            handler.update(*arguments, *([resource.get("UpdatePolicy")] if kind == "AWS::Lambda::Alias" else []))
            undo.append((lambda: handler.update(before.physical, before.properties, properties), logical, before))
            self.resources[logical] = Resource(kind, properties, before.physical, before.attributes, resource)
        else:
            if before and has_own_name(kind, before.properties) and has_own_name(kind, properties):
                raise Refused(f"CloudFormation cannot update a stack when a custom-named resource requires replacing ({', '.join(replaced)}). Rename {logical} and update the stack again.")
            physical, attributes = handler.create(properties)
            undo.append((lambda: handler.delete(physical, properties), logical, before))
            self.resources[logical] = Resource(kind, properties, physical, attributes, resource)
            if before:
                leftovers.append((logical, before, resource.get("UpdateReplacePolicy")))
        self.event("UPDATE_COMPLETE" if before else "CREATE_COMPLETE", logical, kind, self.resources[logical].physical)

    def run(self, text, template, values, hold):
        created = self.status == "REVIEW_IN_PROGRESS"
        self.become("CREATE_IN_PROGRESS" if created else "UPDATE_IN_PROGRESS")
        undo, leftovers, logical = [], [], self.name
        conditions = template.get("Conditions", {})
        try:
            hold(self)
            scope = Scope(self, values, conditions, self.resources)
            wanted = {key: each for key, each in template["Resources"].items() if "Condition" not in each or scope.true(conditions[each["Condition"]])}
            for logical in ordered(wanted):
                if self.cancelled:
                    raise Refused("User Initiated")
                self.one(logical, wanted[logical], scope.resolve(wanted[logical].get("Properties", {})), undo, leftovers)
            outputs = [{"OutputKey": key, "OutputValue": scope.resolve(each["Value"]), "Description": each.get("Description", "")}
                       for key, each in template.get("Outputs", {}).items()]
        except Exception as error:  # whatever AWS refuses ends the update, and is told in the events
            self.cancelled = False
            self.event("CREATE_FAILED" if created else "UPDATE_FAILED", logical, template["Resources"].get(logical, {}).get("Type", "?"), reason=str(error))
            for back, touched, before in reversed(undo):
                back()
                if before:
                    self.resources[touched] = before
                else:
                    del self.resources[touched]
            return self.become("ROLLBACK_COMPLETE" if created else "UPDATE_ROLLBACK_COMPLETE", str(error))
        gone = [key for key in self.resources if key not in wanted]
        leftovers += [(key, self.resources[key], self.resources[key].policy) for key in reversed(gone)]
        for key in gone:
            del self.resources[key]
        for key, old, policy in leftovers:
            if policy != "Retain":
                self.handler(old.kind, key).delete(old.physical, old.properties)
        self.text, self.processed, self.values, self.outputs = text, template, values, outputs
        self.become("CREATE_COMPLETE" if created else "UPDATE_COMPLETE")

    def remove(self):
        self.become("DELETE_IN_PROGRESS")
        for logical in reversed(list(self.resources)):
            found = self.resources.pop(logical)
            if found.policy != "Retain":
                self.handler(found.kind, logical).delete(found.physical, found.properties)
        self.become("DELETE_COMPLETE")

    def described(self):
        return {
            "StackId": self.id, "StackName": self.name, "StackStatus": self.status, "CreationTime": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "EnableTerminationProtection": "false", "DisableRollback": "false",
            "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in self.values.items()],
            "Outputs": self.outputs, "Tags": self.tags,
        }


# ---- the API

def unflattened(form):
    """A.member.1.B=… as lists and dicts."""
    found = {}
    for key, value in form:
        place, parts = found, key.split(".")
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = value

    def listed(node):
        if not isinstance(node, dict):
            return node
        if node.keys() == {"member"}:
            return [listed(node["member"][index]) for index in sorted(node["member"], key=int)]
        return {key: listed(child) for key, child in node.items()}

    return listed(found)


def xml(name, value):
    if value is None:
        return ""
    if isinstance(value, dict):
        return f"<{name}>{''.join(xml(key, child) for key, child in value.items())}</{name}>"
    if isinstance(value, list):
        return f"<{name}>{''.join(xml('member', each) for each in value)}</{name}>"
    return f"<{name}>{escape(str(value))}</{name}>"


class CloudFormation:
    def __init__(self, endpoint):
        self.endpoint, self.clients, self.stacks, self.sets = endpoint, {}, {}, {}
        # Updates wait for their being cancelled.
        self.holding = False

    def hold(self, stack):
        while self.holding and not stack.cancelled:
            time.sleep(0.1)

    def stack(self, region, name):
        for stack in self.stacks.values():
            if stack.clients.region == region and name in (stack.name, stack.id) and (stack.status != "DELETE_COMPLETE" or name == stack.id):
                return stack
        raise Refused(f"Stack with id {name} does not exist")

    def template(self, region, asked):
        if "TemplateBody" in asked:
            return asked["TemplateBody"]
        bucket, key = urllib.parse.unquote(urllib.parse.urlparse(asked["TemplateURL"]).path).lstrip("/").split("/", 1)
        return self.of(region)("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()

    def of(self, region):
        return self.clients.setdefault(region, Clients(self.endpoint, region))

    def CreateChangeSet(self, region, asked):
        try:
            stack = self.stack(region, asked["StackName"])
        except Refused:
            stack = Stack(asked["StackName"], self.of(region))
            stack.become("REVIEW_IN_PROGRESS", "User Initiated")
            self.stacks[stack.id] = stack
        text = self.template(region, asked)
        given = {each["ParameterKey"]: each for each in asked.get("Parameters", [])}
        template, values = stack.prepared(text, given)
        identity = f"arn:aws:cloudformation:{region}:{ACCOUNT}:changeSet/{asked['ChangeSetName']}/{uuid.uuid4()}"
        self.sets[identity] = {"stack": stack, "name": asked["ChangeSetName"], "text": text, "template": template, "values": values, "tags": asked.get("Tags", []),
                               "changes": stack.changes(template, values)}
        return {"Id": identity, "StackId": stack.id}

    def set(self, asked):
        for identity, found in reversed(self.sets.items()):
            if asked["ChangeSetName"] in (identity, found["name"]):
                return identity, found
        raise Refused(f"ChangeSet [{asked['ChangeSetName']}] does not exist")

    def DescribeChangeSet(self, region, asked):
        identity, found = self.set(asked)
        none = None if found["changes"] else "The submitted information didn't contain changes. Submit different information to create a change set."
        return {"ChangeSetName": found["name"], "ChangeSetId": identity, "StackId": found["stack"].id, "StackName": found["stack"].name,
                "Status": "FAILED" if none else "CREATE_COMPLETE", "StatusReason": none, "ExecutionStatus": "UNAVAILABLE" if none else "AVAILABLE",
                "Changes": [{"Type": "Resource", "ResourceChange": {"Action": action, "LogicalResourceId": logical, "ResourceType": kind}} for action, logical, kind in found["changes"]]}

    def ListChangeSets(self, region, asked):
        return {"Summaries": []}

    def ExecuteChangeSet(self, region, asked):
        _, found = self.set(asked)
        stack = found["stack"]
        if stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
            raise Refused(f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        stack.tags = found["tags"] or stack.tags
        work = threading.Thread(target=stack.run, args=(found["text"], found["template"], found["values"], self.hold), daemon=True)
        work.start()
        if not self.holding:
            work.join()
        return {}

    def Hold(self, region, asked):
        """No operation of AWS's: the suite's, to find a stack in the middle of an update."""
        self.holding = asked["Until"] == "cancelled"
        return {}

    def CancelUpdateStack(self, region, asked):
        stack = self.stack(region, asked["StackName"])
        if stack.status != "UPDATE_IN_PROGRESS":
            raise Refused("CancelUpdateStack cannot be called from current stack status")
        stack.cancelled = True
        return {}

    def DescribeStacks(self, region, asked):
        if "StackName" in asked:
            return {"Stacks": [self.stack(region, asked["StackName"]).described()]}
        return {"Stacks": [stack.described() for stack in self.stacks.values() if stack.clients.region == region and stack.status != "DELETE_COMPLETE"]}

    def DescribeStackEvents(self, region, asked):
        return {"StackEvents": self.stack(region, asked["StackName"]).events}

    def DescribeStackResources(self, region, asked):
        stack = self.stack(region, asked["StackName"])
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        return {"StackResources": [{"StackId": stack.id, "StackName": stack.name, "LogicalResourceId": logical, "PhysicalResourceId": found.physical,
                                    "ResourceType": found.kind, "Timestamp": now, "ResourceStatus": "UPDATE_COMPLETE"} for logical, found in stack.resources.items()]}

    def GetTemplate(self, region, asked):
        stack = self.stack(region, asked["StackName"])
        return {"TemplateBody": json.dumps(stack.processed) if asked.get("TemplateStage") == "Processed" else stack.text, "StagesAvailable": ["Original", "Processed"]}

    def GetTemplateSummary(self, region, asked):
        template = self.stack(region, asked["StackName"]).processed
        return {"Parameters": [{"ParameterKey": name, "ParameterType": rule["Type"]} for name, rule in template.get("Parameters", {}).items()]}

    def DeleteStack(self, region, asked):
        self.stack(region, asked["StackName"]).remove()
        return {}

    def __call__(self, region, body):
        """Status and body of an answer."""
        asked = unflattened(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        action = asked["Action"]
        try:
            if not hasattr(self, action):
                raise Refused(f"{action} is not known here")
            told = xml(f"{action}Result", getattr(self, action)(region, asked))
            return "200 OK", f'<{action}Response xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">{told}<ResponseMetadata><RequestId>{uuid.uuid4()}</RequestId></ResponseMetadata></{action}Response>'
        except Refused as refused:
            code = "ChangeSetNotFound" if "ChangeSet [" in str(refused) else "ValidationError"
            return "400 Bad Request", f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(str(refused))}</Message></Error><RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
