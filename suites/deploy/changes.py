"""Every variable of terraform/aws and every parameter of template.yaml, changed on a stack that runs."""

import json

# What no row below has, and where it is held instead.
ELSEWHERE = {
    "name": "another name is another deployment: `refused` and `second_region` of drive.py",
    "force_destroy": "`destroy` of drive.py",
    "image_digest": "`release` of drive.py",
    "api_key_hashes": "`keys` of drive.py",
    "kms_key_arn": "refused on a stack that runs: `changes` of drive.py",
    "allow_anonymous": "a consent alone, without an effect of its own: `everyone_by_mistake` of terraform/modules/lambda/tests",
    "rollout": "CodeDeploy, which moto only keeps: suites/aws/rollout.py runs the script that moves the alias",
    "probe_key_secret_arn": "as rollout",
}


def rows(client, served, name="reranker"):
    """[(batch, {variable: value}, what the cloud shows, what it must be)]; the rows of one batch may be applied at once."""
    functions = client("lambda")
    bulk = f"{name}-bulk"

    def setting(key):
        return lambda: served()[key]

    def variable(key):
        return lambda: served()["Environment"]["Variables"].get(key)

    def alarm(key, field):
        return lambda: client("cloudwatch").describe_alarms(AlarmNames=[f"{name}-{key}"])["MetricAlarms"][0][field]

    def api():
        return next(each["ApiId"] for each in client("apigatewayv2").get_apis()["Items"] if each["Name"] == name)

    def throttle(key):
        return lambda: client("apigatewayv2").get_stage(ApiId=api(), StageName="$default")["DefaultRouteSettings"][key]

    def authorization():
        return {route["RouteKey"]: route["AuthorizationType"] for route in client("apigatewayv2").get_routes(ApiId=api())["Items"]}

    def tokens():
        route = next(route for route in client("apigatewayv2").get_routes(ApiId=api())["Items"] if route["RouteKey"] == "$default")
        return client("apigatewayv2").get_authorizer(ApiId=api(), AuthorizerId=route["AuthorizerId"])["JwtConfiguration"]

    def accounts():
        return "210987654321" in functions.get_policy(FunctionName=name, Qualifier="live")["Policy"]

    def routing():
        alias = functions.get_alias(FunctionName=name, Name="live")
        return alias["FunctionVersion"], list((alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights", {}).values())

    def buckets():
        return sorted(each["Name"].split("-")[1] for each in client("s3").list_buckets()["Buckets"] if each["Name"].startswith(name))

    def dashboards():
        return [each["DashboardName"] for each in client("cloudwatch").list_dashboards()["DashboardEntries"]]

    def helper(function, key):
        """A variable of one of the functions beside; None where that function is not there."""
        def look():
            found = [each for each in functions.list_functions()["Functions"] if each["FunctionName"] == function]
            return found and found[0]["Environment"]["Variables"].get(key) or None
        return look

    def machine():
        found = client("stepfunctions").list_state_machines()["stateMachines"][0]["stateMachineArn"]
        return json.loads(client("stepfunctions").describe_state_machine(stateMachineArn=found)["definition"])

    def field(key):
        def find(node):
            if isinstance(node, dict):
                yield from ([node[key]] if key in node else [])
                node = list(node.values())
            for each in node if isinstance(node, list) else []:
                yield from find(each)
        return lambda: next(find(machine()))

    def days():
        bucket = next(each["Name"] for each in client("s3").list_buckets()["Buckets"] if each["Name"].startswith(bulk))
        rules = client("s3").get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
        return next(rule["Expiration"]["Days"] for rule in rules if "Days" in rule.get("Expiration", {}))

    def tags():
        return client("lambda").list_tags(Resource=functions.get_function(FunctionName=name)["Configuration"]["FunctionArn"])["Tags"].get("team")

    def reserved():
        return functions.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")

    def ready():
        try:
            return functions.get_provisioned_concurrency_config(FunctionName=name, Qualifier="live")["RequestedProvisionedConcurrentExecutions"]
        except functions.exceptions.ProvisionedConcurrencyConfigNotFoundException:
            return 0

    def kept():
        return {each.get("retentionInDays") for each in client("logs").describe_log_groups()["logGroups"]}

    def network():
        return served()["VpcConfig"]["SubnetIds"], served()["VpcConfig"]["SecurityGroupIds"]

    subnet = client("ec2").describe_subnets()["Subnets"][0]
    group = client("ec2").describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [subnet["VpcId"]]}])["SecurityGroups"][0]["GroupId"]
    topic = client("sns").create_topic(Name="operators")["TopicArn"]
    secret = client("secretsmanager").create_secret(Name="callers", SecretString="a-key-of-a-caller-that-signs")["ARN"]
    first = functions.list_versions_by_function(FunctionName=name)["Versions"][1]["Version"]
    issuer = "https://issuer.example/"

    return [
        (1, {"memory_mb": 4000}, setting("MemorySize"), 4000),
        (1, {"timeout_s": 25}, setting("Timeout"), 25),
        (1, {"reserved_concurrency": 7}, reserved, 7),
        (1, {"start": "snap-start"}, lambda: served()["SnapStart"]["ApplyOn"], "PublishedVersions"),
        (1, {"init_budget_s": 7}, variable("INIT_BUDGET_S"), "7"),
        (1, {"keep_versions": 5}, helper(f"{name}-old-versions", "KEEP_VERSIONS"), "5"),
        (1, {"create_model_bucket": True}, lambda: "models" in buckets(), True),
        (1, {"max_length": 300}, variable("MAX_LENGTH"), "300"),
        (1, {"log_level": "debug"}, variable("LOG_LEVEL"), "debug"),
        (1, {"environment": {"MAX_QUEUE": "5"}}, variable("MAX_QUEUE"), "5"),
        (1, {"http_api_authorization": "AWS_IAM"}, lambda: authorization()["$default"], "AWS_IAM"),
        (1, {"function_url_accounts": ["210987654321"]}, accounts, True),
        (1, {"throttle_rate": 5}, throttle("ThrottlingRateLimit"), 5),
        (1, {"throttle_burst": 9}, throttle("ThrottlingBurstLimit"), 9),
        (1, {"log_retention_days": 14}, kept, {14}),
        (1, {"metrics": "full"}, variable("EMF_METRICS"), "full"),
        (1, {"dashboard": False}, dashboards, []),
        (1, {"tracing": "Active"}, lambda: served()["TracingConfig"]["Mode"], "Active"),
        (1, {"otlp_endpoint": "https://collector.example"}, variable("OTEL_EXPORTER_OTLP_ENDPOINT"), "https://collector.example"),
        (1, {"alarm_topic_arn": topic}, alarm("errors", "AlarmActions"), [topic]),
        (1, {"alarm_p99_ms": 20000}, alarm("slow", "Threshold"), 20000),
        (1, {"alarm_init_ms": 5000}, alarm("slow-start", "Threshold"), 5000),
        (1, {"tags": {"team": "search"}}, tags, "search"),
        (1, {"bulk": True}, lambda: "bulk" in buckets(), True),
        (2, {"start": "provisioned-concurrency", "provisioned_concurrency": 2}, ready, 2),
        (2, {"keep_versions": 0}, helper(f"{name}-old-versions", "KEEP_VERSIONS"), None),
        (2, {"http_api_authorization": "JWT", "jwt_issuer": issuer, "jwt_audience": ["callers"]}, tokens, {"Audience": ["callers"], "Issuer": issuer}),
        (2, {"api_keys_secret_arn": secret}, lambda: "a-key-of-a-caller" in variable("API_KEYS")(), True),
        (2, {"vpc_subnet_ids": [subnet["SubnetId"]], "vpc_security_group_ids": [group]}, network, ([subnet["SubnetId"]], [group])),
        (2, {"architecture": "arm64"}, setting("Architectures"), ["arm64"]),
        (2, {"bulk_memory_mb": 5000}, lambda: functions.get_function_configuration(FunctionName=bulk)["MemorySize"], 5000),
        (2, {"bulk_batch_pairs": 40}, field("MaxItemsPerBatch"), 40),
        (2, {"bulk_concurrency": 3}, field("MaxConcurrency"), 3),
        (2, {"bulk_tolerated_failures": 4}, field("ToleratedFailurePercentage"), 4),
        (2, {"bulk_retention_days": 9}, days, 9),
        (3, {"start": "on-demand", "provisioned_concurrency": 0}, ready, 0),
        (3, {"ephemeral_storage_mb": 1024}, lambda: served()["EphemeralStorage"]["Size"], 1024),
        (3, {"model_uri": "s3://models/packed.safetensors"}, variable("MODEL_DIR"), "s3://models/packed.safetensors"),
        (4, {"stable_version": first, "canary_weight": 0.1}, routing, (first, [0.1])),
    ]


# [({parameter: value}, whether a version is published)]. SECRET and VERSION are those of another secret. What CloudFormation does not see in the
# function changes together with Release, as the template says.
SAM_ROWS = [
    ({"MemoryMb": "4000"}, True),
    ({"TimeoutSeconds": "25"}, True),
    ({"Start": "snap-start"}, True),
    ({"Start": "provisioned-concurrency", "ProvisionedConcurrency": "1"}, True),
    ({"ProvisionedConcurrency": "2"}, False),
    ({"Start": "on-demand", "ProvisionedConcurrency": "0"}, True),
    ({"EphemeralStorageMb": "1024"}, True),
    ({"Architecture": "arm64"}, True),
    ({"InitBudgetSeconds": "7"}, True),
    ({"MaxLength": "300"}, True),
    ({"LogLevel": "trace"}, True),
    ({"Tracing": "Active"}, True),
    ({"Metrics": "full"}, True),
    ({"Release": "2"}, True),
    ({"ModelUri": "s3://models/packed.safetensors", "Release": "3"}, True),
    ({"OtlpEndpoint": "https://collector.example", "Release": "4"}, True),
    ({"KmsKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", "Release": "5"}, True),
    ({"ApiKeysSecretArn": "SECRET", "ApiKeysVersionId": "VERSION"}, True),
    ({"ReservedConcurrency": "5"}, False),
    ({"ThrottleRate": "5"}, False),
    ({"ThrottleBurst": "9"}, False),
    ({"AllowAnonymous": "true"}, False),
    ({"Rollout": "Canary10Percent5Minutes"}, False),
    ({"ProbeKeySecretArn": "SECRET"}, False),
    ({"KeepVersions": "5"}, False),
    ({"LogRetentionDays": "14"}, False),
    ({"AlarmTopicArn": "arn:aws:sns:eu-central-1:123456789012:operators"}, False),
    ({"AlarmP99Ms": "20000"}, False),
    ({"AlarmInitMs": "5000"}, False),
]
