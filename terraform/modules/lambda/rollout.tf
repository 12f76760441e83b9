# How a new version takes over: at once or by hand (stable_version, canary_weight), or step by step by CodeDeploy, which asks the new version
# first and goes back by itself when an alarm rises.

locals {
  by_codedeploy = var.rollout != ""
  # To the version that is to serve. One that is named is gone back to at once.
  target_version = var.stable_version == "" ? aws_lambda_function.this.version : var.stable_version
  # The one that is watched: with a canary by hand it is not the one that serves.
  coming_version = local.by_codedeploy ? local.target_version : aws_lambda_function.this.version
  # CodeDeploy's own role may call functions of this name.
  hook_name = "CodeDeployHook_${var.name}"
  code      = "${path.module}/../../../aws/rollout"
}

resource "aws_lambda_alias" "rolled" {
  count = local.by_codedeploy ? 1 : 0

  name             = "live"
  function_name    = aws_lambda_function.this.function_name
  function_version = local.target_version

  # CodeDeploy moves it.
  lifecycle {
    ignore_changes = [function_version, routing_config]
  }
}

data "archive_file" "rollout" {
  count = local.by_codedeploy || var.keep_versions > 0 ? 1 : 0

  type        = "zip"
  output_path = "${path.root}/.terraform/${var.name}-rollout.zip"

  source {
    filename = "rollout.py"
    content  = file("${local.code}/rollout.py")
  }
  source {
    filename = "published.json"
    content  = file("${local.code}/published.json")
  }
}

resource "aws_cloudwatch_log_group" "rollout" {
  #checkov:skip=CKV_AWS_338:How long logs are worth keeping is log_retention_days; a month is enough to look into what an alarm tells.
  for_each = merge(
    local.by_codedeploy ? { check = "/aws/lambda/${local.hook_name}" } : {},
    var.keep_versions > 0 ? { clean = "/aws/lambda/${var.name}-old-versions" } : {},
  )

  name              = each.value
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key_arn
}

# What asks a new version before callers reach it.

resource "aws_iam_role" "check" {
  count = local.by_codedeploy ? 1 : 0

  name               = "${local.iam_name}-check"
  assume_role_policy = local.assume_lambda
}

resource "aws_iam_role_policy" "check" {
  count = local.by_codedeploy ? 1 : 0

  name = "check"
  role = aws_iam_role.check[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.rollout["check"].arn}:*"] },
        { Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = ["${aws_lambda_function.this.arn}:*"] },
        { Effect = "Allow", Action = ["codedeploy:PutLifecycleEventHookExecutionStatus"], Resource = [aws_codedeploy_deployment_group.this[0].arn] },
      ],
      var.probe_key_secret_arn == "" ? [] : [
        { Effect = "Allow", Action = ["secretsmanager:GetSecretValue"], Resource = [var.probe_key_secret_arn] }
      ],
      var.kms_key_arn == "" ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_arn] }],
    )
  })
}

resource "aws_lambda_function" "check" {
  #checkov:skip=CKV_AWS_115:CodeDeploy calls it once for each deployment.
  #checkov:skip=CKV_AWS_116:CodeDeploy waits for its answer.
  #checkov:skip=CKV_AWS_117:It calls AWS's own interfaces alone.
  #checkov:skip=CKV_AWS_272:Terraform packs the code, from this repository.
  #checkov:skip=CKV_AWS_50:It runs once for each deployment, and its log says what it saw.
  count = local.by_codedeploy ? 1 : 0

  function_name    = local.hook_name
  description      = "Asks a new version of ${var.name} whether it is ready and scores as published, before callers reach it"
  role             = aws_iam_role.check[0].arn
  runtime          = "python3.13"
  handler          = "rollout.before_traffic"
  filename         = data.archive_file.rollout[0].output_path
  source_code_hash = data.archive_file.rollout[0].output_base64sha256
  timeout          = 300
  kms_key_arn      = local.key_arn

  environment {
    variables = merge(
      {
        VERSION     = "${aws_lambda_function.this.arn}:${aws_lambda_function.this.version}"
        OPEN_TO_ALL = tostring(length(local.api_keys) == 0)
      },
      var.probe_key_secret_arn == "" ? {} : { PROBE_KEY_SECRET = var.probe_key_secret_arn },
    )
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.rollout["check"].name
  }
}

# What moves the alias.

resource "aws_iam_role" "codedeploy" {
  count = local.by_codedeploy ? 1 : 0

  name = "${local.iam_name}-codedeploy"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "codedeploy.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "codedeploy" {
  count = local.by_codedeploy ? 1 : 0

  name = "move"
  role = aws_iam_role.codedeploy[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["lambda:UpdateAlias", "lambda:GetAlias", "lambda:GetProvisionedConcurrencyConfig"]
        Resource = [aws_lambda_function.this.arn, "${aws_lambda_function.this.arn}:*"]
      },
      { Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = ["arn:${local.partition}:lambda:${local.region}:${local.account}:function:${local.hook_name}"] },
      # Alarms have no resources in this action.
      { Effect = "Allow", Action = ["cloudwatch:DescribeAlarms"], Resource = ["*"] },
    ]
  })
}

resource "aws_codedeploy_app" "this" {
  count = local.by_codedeploy ? 1 : 0

  name             = var.name
  compute_platform = "Lambda"
}

resource "aws_codedeploy_deployment_group" "this" {
  count = local.by_codedeploy ? 1 : 0

  app_name               = aws_codedeploy_app.this[0].name
  deployment_group_name  = "live"
  deployment_config_name = "CodeDeployDefault.Lambda${var.rollout}"
  service_role_arn       = aws_iam_role.codedeploy[0].arn

  deployment_style {
    deployment_option = "WITH_TRAFFIC_CONTROL"
    deployment_type   = "BLUE_GREEN"
  }

  auto_rollback_configuration {
    enabled = true
    events  = ["DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST"]
  }

  alarm_configuration {
    enabled = true
    alarms  = [for key in local.alarms_of_a_rollout : aws_cloudwatch_metric_alarm.this[key].alarm_name if contains(keys(local.alarms), key)]
  }

  depends_on = [aws_iam_role_policy.codedeploy]
}

# Terraform has no resource for a deployment: it is an event. Needs the AWS CLI where Terraform runs.
resource "terraform_data" "rollout" {
  count = local.by_codedeploy ? 1 : 0

  triggers_replace = [local.target_version]

  provisioner "local-exec" {
    command     = "${path.module}/rollout.sh"
    interpreter = ["bash"]
    environment = {
      REGION      = local.region
      FUNCTION    = aws_lambda_function.this.function_name
      ALIAS       = aws_lambda_alias.rolled[0].name
      TARGET      = local.target_version
      AT_ONCE     = var.stable_version == "" ? "" : "yes"
      APPLICATION = aws_codedeploy_app.this[0].name
      GROUP       = aws_codedeploy_deployment_group.this[0].deployment_group_name
      HOOK        = aws_lambda_function.check[0].function_name
    }
  }

  depends_on = [aws_iam_role_policy.check]
}

# What removes old versions. SnapStart bills each for as long as it exists.

resource "aws_iam_role" "clean" {
  count = var.keep_versions > 0 ? 1 : 0

  name               = "${local.iam_name}-old-versions"
  assume_role_policy = local.assume_lambda
}

resource "aws_iam_role_policy" "clean" {
  count = var.keep_versions > 0 ? 1 : 0

  name = "clean"
  role = aws_iam_role.clean[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.rollout["clean"].arn}:*"] },
        { Effect = "Allow", Action = ["lambda:ListVersionsByFunction", "lambda:ListAliases"], Resource = [aws_lambda_function.this.arn] },
        # A version alone: the function itself has no colon after its name.
        { Effect = "Allow", Action = ["lambda:DeleteFunction"], Resource = ["${aws_lambda_function.this.arn}:*"] },
      ],
      var.kms_key_arn == "" ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_arn] }],
    )
  })
}

resource "aws_lambda_function" "clean" {
  #checkov:skip=CKV_AWS_115:A schedule calls it once a day.
  #checkov:skip=CKV_AWS_116:What it did not remove, it removes the next day.
  #checkov:skip=CKV_AWS_117:It calls AWS's own interfaces alone.
  #checkov:skip=CKV_AWS_272:Terraform packs the code, from this repository.
  #checkov:skip=CKV_AWS_50:It runs once a day, and its log says what it removed.
  count = var.keep_versions > 0 ? 1 : 0

  function_name    = "${var.name}-old-versions"
  description      = "Keeps the newest ${var.keep_versions} versions of ${var.name}, and those that its alias uses"
  role             = aws_iam_role.clean[0].arn
  runtime          = "python3.13"
  handler          = "rollout.keep_newest"
  filename         = data.archive_file.rollout[0].output_path
  source_code_hash = data.archive_file.rollout[0].output_base64sha256
  timeout          = 60
  kms_key_arn      = local.key_arn

  environment {
    variables = { FUNCTION = aws_lambda_function.this.function_name, KEEP_VERSIONS = tostring(var.keep_versions) }
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.rollout["clean"].name
  }
}

resource "aws_cloudwatch_event_rule" "clean" {
  count = var.keep_versions > 0 ? 1 : 0

  name                = "${var.name}-old-versions"
  description         = "Old versions are removed once a day"
  schedule_expression = "rate(1 day)"
}

resource "aws_cloudwatch_event_target" "clean" {
  count = var.keep_versions > 0 ? 1 : 0

  rule = aws_cloudwatch_event_rule.clean[0].name
  arn  = aws_lambda_function.clean[0].arn
}

resource "aws_lambda_permission" "clean" {
  count = var.keep_versions > 0 ? 1 : 0

  statement_id  = "schedule"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.clean[0].function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.clean[0].arn
}
