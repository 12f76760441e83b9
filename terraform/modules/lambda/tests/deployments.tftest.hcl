# What each way to deploy becomes, planned against a provider that reaches no cloud.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-central-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "first,second" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/role" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:group" }
  }
  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:reranker", version = "8" }
  }
  mock_resource "aws_lambda_alias" {
    defaults = {
      arn        = "arn:aws:lambda:eu-central-1:123456789012:function:reranker:live"
      invoke_arn = "arn:aws:apigateway:eu-central-1:lambda:path/2015-03-31/functions/arn:aws:lambda:eu-central-1:123456789012:function:reranker:live/invocations"
    }
  }
  mock_resource "aws_apigatewayv2_api" {
    defaults = { id = "a1b2c3d4e5", execution_arn = "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5" }
  }
}

mock_provider "archive" {
  mock_data "archive_file" {
    defaults = { output_path = "rollout.zip", output_base64sha256 = "0000" }
  }
}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
}

run "smallest" {
  assert {
    condition     = aws_lambda_function.this.image_uri == "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker@${var.image_digest}"
    error_message = "the function runs the image by its digest"
  }
  assert {
    condition     = aws_lambda_function.this.package_type == "Image" && aws_lambda_function.this.publish && aws_lambda_alias.live[0].function_version == "8"
    error_message = "each change is published, and the alias follows"
  }
  assert {
    condition     = length(aws_lambda_function.this.snap_start) == 0 && length(aws_lambda_provisioned_concurrency_config.live) == 0
    error_message = "on demand means neither snapshots nor provisioned instances"
  }
  assert {
    condition     = aws_lambda_function.this.environment[0].variables.API_KEYS == var.api_key_hashes[0]
    error_message = "the function asks for the keys"
  }
  assert {
    condition = alltrue([
      aws_lambda_function.this.logging_config[0].log_format == "JSON",
      aws_lambda_function.this.logging_config[0].log_group == "/aws/lambda/reranker",
      aws_cloudwatch_log_group.function.name == "/aws/lambda/reranker",
      aws_cloudwatch_log_group.function.retention_in_days == 30,
      aws_cloudwatch_log_group.access.retention_in_days == 30,
    ])
    error_message = "logs are JSON, in a group that forgets"
  }
  assert {
    condition = alltrue([
      aws_apigatewayv2_route.every.route_key == "$default",
      aws_apigatewayv2_stage.default.name == "$default",
      aws_apigatewayv2_integration.this.integration_uri == aws_lambda_alias.live[0].invoke_arn,
      aws_apigatewayv2_integration.this.payload_format_version == "2.0",
      aws_apigatewayv2_integration.this.timeout_milliseconds == 30000,
      aws_lambda_permission.api.qualifier == "live",
    ])
    error_message = "the HTTP API takes every route to the alias"
  }
  assert {
    condition     = length(aws_apigatewayv2_route.open) == 0
    error_message = "where the HTTP API asks for nothing, one route is enough"
  }
  assert {
    condition = alltrue([
      one(aws_apigatewayv2_stage.default.default_route_settings).throttling_rate_limit == 20,
      one(aws_apigatewayv2_stage.default.default_route_settings).throttling_burst_limit == 40,
      one(aws_apigatewayv2_stage.default.access_log_settings).destination_arn == aws_cloudwatch_log_group.access.arn,
    ])
    error_message = "the HTTP API throttles and logs"
  }
  assert {
    condition     = aws_lambda_function_url.live.authorization_type == "AWS_IAM" && aws_lambda_function_url.live.qualifier == "live"
    error_message = "the Function URL asks for IAM"
  }
  assert {
    condition     = toset(flatten([for statement in jsondecode(aws_iam_policy.caller.policy).Statement : statement.Action])) == toset(["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"])
    error_message = "callers of a Function URL need both actions"
  }
  assert {
    condition     = toset(flatten([for statement in jsondecode(aws_iam_role_policy.function.policy).Statement : statement.Action])) == toset(["logs:CreateLogStream", "logs:PutLogEvents"])
    error_message = "the function may write its log, and nothing else"
  }
  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.function.policy).Statement : !contains(statement.Resource, "*")])
    error_message = "nothing is allowed on everything"
  }
  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.this)) == toset(["errors", "throttles", "slow", "server-errors", "api-server-errors", "url-server-errors", "slow-start"])
    error_message = "an alarm is missing"
  }
  assert {
    condition = alltrue([
      aws_cloudwatch_metric_alarm.this["slow"].extended_statistic == "p99",
      aws_cloudwatch_metric_alarm.this["errors"].dimensions["Resource"] == "reranker:live",
      aws_cloudwatch_metric_alarm.this["slow-start"].metric_name == "InitTime",
      aws_cloudwatch_metric_alarm.this["slow-start"].namespace == one(aws_cloudwatch_log_metric_filter.start["InitTime"].metric_transformation).namespace,
    ])
    error_message = "the alarms look at the alias, at p99 and at what the filter counts"
  }
}

run "snapshots" {
  variables {
    start = "snap-start"
  }
  assert {
    condition     = aws_lambda_function.this.snap_start[0].apply_on == "PublishedVersions" && length(aws_lambda_provisioned_concurrency_config.live) == 0
    error_message = "SnapStart is of published versions, without provisioned instances"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["slow-start"].metric_name == "RestoreTime"
    error_message = "with SnapStart a start is a restored snapshot"
  }
}

run "provisioned" {
  variables {
    start                   = "provisioned-concurrency"
    provisioned_concurrency = 2
  }
  assert {
    condition = alltrue([
      length(aws_lambda_function.this.snap_start) == 0,
      aws_lambda_provisioned_concurrency_config.live[0].provisioned_concurrent_executions == 2,
      aws_lambda_provisioned_concurrency_config.live[0].qualifier == "live",
    ])
    error_message = "provisioned instances are the alias's, without SnapStart"
  }
}

run "gradual" {
  variables {
    stable_version = "7"
    canary_weight  = 0.1
  }
  assert {
    condition     = aws_lambda_alias.live[0].function_version == "7" && aws_lambda_alias.live[0].routing_config[0].additional_version_weights["8"] == 0.1
    error_message = "a tenth of the calls go to the new version"
  }
}

run "back" {
  variables {
    stable_version = "7"
  }
  assert {
    condition     = aws_lambda_alias.live[0].function_version == "7" && length(aws_lambda_alias.live[0].routing_config) == 0
    error_message = "all calls go to the version before"
  }
}

run "everything_around" {
  variables {
    api_key_hashes         = []
    api_keys_secret_arn    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:keys-AbCdEf"
    http_api_authorization = "JWT"
    jwt_issuer             = "https://issuer.example.com"
    jwt_audience           = ["reranker"]
    function_url_accounts  = ["210987654321"]
    vpc_subnet_ids         = ["subnet-1", "subnet-2"]
    vpc_security_group_ids = ["sg-1"]
    model_uri              = "s3://models/bge/packed.safetensors"
    tracing                = "Active"
    otlp_endpoint          = "https://collector.example.com:4318"
    kms_key_arn            = "arn:aws:kms:eu-central-1:123456789012:key/0"
    alarm_topic_arn        = "arn:aws:sns:eu-central-1:123456789012:alarms"
    environment            = { MAX_PAIRS = "200" }
    architecture           = "arm64"
    memory_mb              = 10240
  }
  assert {
    condition = aws_lambda_function.this.environment[0].variables == tomap({
      API_KEYS                    = "first,second"
      EMF_METRICS                 = "false"
      INIT_BUDGET_S               = "8"
      LOG_LEVEL                   = "info"
      MAX_LENGTH                  = "512"
      MAX_PAIRS                   = "200"
      MODEL_DIR                   = "s3://models/bge/packed.safetensors"
      OTEL_EXPORTER_OTLP_ENDPOINT = "https://collector.example.com:4318"
    })
    error_message = "the function's variables"
  }
  assert {
    condition     = one([for statement in jsondecode(aws_iam_role_policy.function.policy).Statement : statement.Resource[0] if contains(statement.Action, "s3:GetObject")]) == "arn:aws:s3:::models/bge/packed.safetensors*"
    error_message = "the function reads the model and nothing else of S3"
  }
  assert {
    condition     = aws_cloudwatch_log_group.function.kms_key_id == var.kms_key_arn && aws_lambda_function.this.kms_key_arn == var.kms_key_arn
    error_message = "the given key is used"
  }
  assert {
    condition     = aws_apigatewayv2_route.every.authorization_type == "JWT" && aws_apigatewayv2_authorizer.jwt[0].jwt_configuration[0].issuer == "https://issuer.example.com"
    error_message = "the HTTP API asks for tokens"
  }
  assert {
    condition     = { for key, route in aws_apigatewayv2_route.open : key => route.authorization_type } == { "OPTIONS /{proxy+}" = "NONE", "GET /health" = "NONE", "GET /live" = "NONE", "GET /ready" = "NONE" }
    error_message = "preflights and monitors bring no token"
  }
  assert {
    condition = alltrue([
      aws_lambda_permission.url["210987654321"].function_url_auth_type == "AWS_IAM",
      aws_lambda_permission.url_invoke["210987654321"].action == "lambda:InvokeFunction",
      aws_lambda_permission.url_invoke["210987654321"].invoked_via_function_url,
    ])
    error_message = "another account gets both permissions, the second for the URL only"
  }
  assert {
    condition     = aws_lambda_function.this.vpc_config[0].subnet_ids == toset(["subnet-1", "subnet-2"]) && aws_lambda_function.this.architectures == tolist(["arm64"])
    error_message = "the function lies in the VPC, on the architecture asked for"
  }
  assert {
    condition     = contains([for statement in jsondecode(aws_iam_role_policy.function.policy).Statement : statement.Effect if contains(statement.Action, "ec2:CreateNetworkInterface")], "Deny")
    error_message = "Lambda makes network interfaces, the code that runs in it does not"
  }
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_actions == toset([var.alarm_topic_arn])])
    error_message = "every alarm tells the topic"
  }
  assert {
    condition     = one([for statement in jsondecode(aws_iam_role_policy.function.policy).Statement : statement.Resource[0] if contains(statement.Action, "kms:Decrypt")]) == var.kms_key_arn
    error_message = "the function may decrypt its variables"
  }
}

run "callers_by_iam" {
  variables {
    http_api_authorization = "AWS_IAM"
  }
  assert {
    condition     = one([for statement in jsondecode(aws_iam_policy.caller.policy).Statement : statement.Resource[0] if contains(statement.Action, "execute-api:Invoke")]) == "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5/*"
    error_message = "the policy for callers lets them through the HTTP API, too"
  }
}

run "a_second_region_finds_no_name_taken" {
  variables {
    name = "a-name-of-24-characters1"
  }
  assert {
    condition     = alltrue([for name in [aws_iam_role.function.name, aws_iam_policy.caller.name] : strcontains(name, "eu-central-1")])
    error_message = "IAM's names are the account's, so each has its region in it"
  }
  assert {
    # ap-southeast-1 is as long as a region's name gets.
    condition     = length(aws_iam_role.function.name) + length("ap-southeast-1") - length("eu-central-1") <= 64
    error_message = "IAM takes 64 characters for a role"
  }
}

run "bulk_work_gets_the_image_and_the_settings_without_the_keys" {
  assert {
    condition     = output.service.image_uri == aws_lambda_function.this.image_uri && !contains(keys(output.service.environment), "API_KEYS")
    error_message = "the bulk function has no address, so it needs no keys"
  }
}

run "codedeploy_moves_the_alias" {
  command = plan
  variables {
    rollout              = "Canary10Percent5Minutes"
    probe_key_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:probe-AbCdEf"
  }
  assert {
    condition     = length(aws_lambda_alias.live) == 0 && aws_lambda_alias.rolled[0].name == "live"
    error_message = "an alias that Terraform would move back is not one that CodeDeploy can move"
  }
  assert {
    condition = alltrue([
      aws_codedeploy_app.this[0].compute_platform == "Lambda",
      aws_codedeploy_deployment_group.this[0].deployment_config_name == "CodeDeployDefault.LambdaCanary10Percent5Minutes",
      aws_codedeploy_deployment_group.this[0].deployment_style[0].deployment_option == "WITH_TRAFFIC_CONTROL",
      contains(aws_codedeploy_deployment_group.this[0].auto_rollback_configuration[0].events, "DEPLOYMENT_STOP_ON_ALARM"),
    ])
    error_message = "a tenth first, and back when an alarm rises"
  }
  assert {
    condition = toset(aws_codedeploy_deployment_group.this[0].alarm_configuration[0].alarms) == toset([
      "reranker-errors", "reranker-throttles", "reranker-server-errors", "reranker-new-version-errors", "reranker-new-version-slow",
    ])
    error_message = "the service's own 5xx, and the new version's errors and time, stop a deployment"
  }
  assert {
    condition     = startswith(aws_lambda_function.check[0].function_name, "CodeDeployHook_") && aws_lambda_function.check[0].handler == "rollout.before_traffic"
    error_message = "CodeDeploy asks the new version first"
  }
  assert {
    condition     = aws_lambda_function.check[0].environment[0].variables.PROBE_KEY_SECRET == var.probe_key_secret_arn && aws_lambda_function.check[0].environment[0].variables.OPEN_TO_ALL == "false"
    error_message = "the check has a key of its own"
  }
}

run "going_back_by_one_parameter" {
  command = plan
  variables {
    rollout        = "Canary10Percent5Minutes"
    stable_version = "7"
  }
  assert {
    condition     = terraform_data.rollout[0].triggers_replace == ["7"]
    error_message = "the alias goes back to the version that is named"
  }
}

run "old_versions_go" {
  assert {
    condition = alltrue([
      aws_lambda_function.clean[0].environment[0].variables.KEEP_VERSIONS == "10",
      aws_cloudwatch_event_rule.clean[0].schedule_expression == "rate(1 day)",
      length(aws_codedeploy_app.this) == 0,
    ])
    error_message = "ten versions are kept, and CodeDeploy is for who asks"
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.clean[0].policy).Statement :
      !contains(statement.Action, "lambda:DeleteFunction") || statement.Resource == ["${aws_lambda_function.this.arn}:*"]
    ])
    error_message = "a version may be removed, the function may not"
  }
}

run "every_version_stays" {
  variables {
    keep_versions = 0
  }
  assert {
    condition     = length(aws_lambda_function.clean) == 0 && length(aws_iam_role.clean) == 0
    error_message = "nothing removes versions"
  }
}

run "a_canary_by_hand_is_watched" {
  variables {
    stable_version = "7"
    canary_weight  = 0.1
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["new-version-errors"].dimensions.ExecutedVersion == aws_lambda_function.this.version
    error_message = "the alarm looks at the new version"
  }
  assert {
    condition     = !contains(keys(aws_cloudwatch_metric_alarm.this), "new-version-server-errors")
    error_message = "without the service's own metrics nothing counts 5xx by version"
  }
}

run "a_canary_by_hand_with_all_metrics" {
  variables {
    stable_version = "7"
    canary_weight  = 0.1
    metrics        = "full"
  }
  assert {
    condition = alltrue([
      aws_cloudwatch_metric_alarm.this["new-version-server-errors"].namespace == "serverless-reranker",
      aws_cloudwatch_metric_alarm.this["new-version-server-errors"].metric_name == "ServerErrors",
      aws_cloudwatch_metric_alarm.this["new-version-server-errors"].dimensions.Function == aws_lambda_function.this.function_name,
      aws_cloudwatch_metric_alarm.this["new-version-server-errors"].dimensions.Version == aws_lambda_function.this.version,
    ])
    error_message = "the service's own 5xx of the new version raise an alarm"
  }
}

run "metrics_are_few_unless_asked_for" {
  variables {
    metrics = "full"
  }
  assert {
    condition     = aws_lambda_function.this.environment[0].variables.EMF_METRICS == "full"
    error_message = "the service writes its own metrics by version, route and dialect"
  }
  assert {
    condition     = toset(keys(aws_cloudwatch_log_metric_filter.requests)) == toset(["Requests", "ClientErrors", "ServerErrors", "RequestTime", "Tokens"])
    error_message = "five by function"
  }
}

run "a_key_may_have_a_name" {
  variables {
    api_key_hashes = ["mobile-app.v2=sha256:00000000000000000000000000000000000000000000000000000000000000aa"]
    environment    = { KEY_LIMITS = "mobile-app.v2:rpm=60" }
  }
  assert {
    condition = (
      aws_lambda_function.this.environment[0].variables.API_KEYS == var.api_key_hashes[0]
      && aws_lambda_function.this.environment[0].variables.KEY_LIMITS == "mobile-app.v2:rpm=60"
    )
    error_message = "the name reaches the service, and so do its limits"
  }
}
