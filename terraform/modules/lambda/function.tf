data "aws_caller_identity" "current" {}
data "aws_region" "current" {}
data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.id
  partition = data.aws_partition.current.partition
  # Whose key it is where none is given: AWS's own.
  key_arn = var.kms_key_arn == "" ? null : var.kms_key_arn

  alias = one(concat(aws_lambda_alias.live, aws_lambda_alias.rolled))

  # IAM knows no regions: without one in the name, a second region would find the name taken.
  iam_name   = "${var.name}-${local.region}"
  image_uri  = "${var.repository_url}@${var.image_digest}"
  model_path = trimprefix(var.model_uri, "s3://")

  api_keys = concat(
    var.api_key_hashes,
    [for secret in data.aws_secretsmanager_secret_version.api_keys : secret.secret_string],
  )
  # Of the function that callers reach and of one for bulk work, which nobody reaches but a state machine.
  shared_environment = merge(
    var.environment,
    {
      MAX_LENGTH    = tostring(var.max_length)
      INIT_BUDGET_S = tostring(var.init_budget_s)
      LOG_LEVEL     = var.log_level
      # The minimal set is counted from the log.
      EMF_METRICS = var.metrics == "full" ? "full" : "false"
    },
    var.model_uri == "" ? {} : { MODEL_DIR = var.model_uri },
    var.otlp_endpoint == "" ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint },
  )

  assume_lambda = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
  # Beside its own log: traces, one prefix of S3, and what decrypts them. Only what is in use.
  shared_statements = concat(
    var.kms_key_arn == "" ? [] : [{ Effect = "Allow", Action = ["kms:Decrypt"], Resource = [var.kms_key_arn] }],
    var.tracing == "Active" ? [
      # X-Ray's actions know no resources.
      { Effect = "Allow", Action = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], Resource = ["*"] }
    ] : [],
    var.model_uri != "" ? [
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:${local.partition}:s3:::${local.model_path}*"] }
    ] : [],
    length(var.vpc_subnet_ids) > 0 ? [
      # Lambda makes a VPC's network interfaces in the function's name, and they have no names before they are there.
      {
        Effect   = "Allow"
        Action   = ["ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:DeleteNetworkInterface"]
        Resource = ["*"]
      }
    ] : [],
    length(var.vpc_subnet_ids) > 0 ? [
      # Lambda and not the code that runs in it.
      {
        Effect    = "Deny"
        Action    = ["ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:DeleteNetworkInterface"]
        Resource  = ["*"]
        Condition = { ArnLike = { "lambda:SourceFunctionArn" = "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${var.name}*" } }
      }
    ] : [],
  )
}

data "aws_secretsmanager_secret_version" "api_keys" {
  count = var.api_keys_secret_arn == "" ? 0 : 1

  secret_id = var.api_keys_secret_arn
}

# Before the function, which would otherwise make a group of its own that keeps everything for ever.
resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:How long logs are worth keeping is log_retention_days; a month is enough to look into what an alarm tells.
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key_arn
}

resource "aws_iam_role" "function" {
  name               = "${local.iam_name}-function"
  assume_role_policy = local.assume_lambda
}

resource "aws_iam_role_policy" "function" {
  name = "function"
  role = aws_iam_role.function.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.shared_statements, [
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.function.arn}:*"]
      },
    ])
  })
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_116:A dead-letter queue is for asynchronous calls. HTTP APIs and Function URLs wait for their answer.
  #checkov:skip=CKV_AWS_272:Lambda can't check signatures of container images; the digest names the bytes.
  function_name                  = var.name
  description                    = "Scores (query, passage) pairs with a cross-encoder"
  role                           = aws_iam_role.function.arn
  package_type                   = "Image"
  image_uri                      = local.image_uri
  architectures                  = [var.architecture]
  memory_size                    = var.memory_mb
  timeout                        = var.timeout_s
  reserved_concurrent_executions = var.reserved_concurrency
  kms_key_arn                    = local.key_arn
  publish                        = true

  environment {
    variables = merge(
      local.shared_environment,
      length(local.api_keys) == 0 ? {} : { API_KEYS = join(",", local.api_keys) },
    )
  }

  ephemeral_storage {
    size = var.ephemeral_storage_mb
  }

  # JSON, because only then do Lambda's own lines (the time of an initialisation) have fields that a filter can read.
  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.function.name
  }

  tracing_config {
    mode = var.tracing
  }

  dynamic "snap_start" {
    for_each = var.start == "snap-start" ? [1] : []
    content {
      apply_on = "PublishedVersions"
    }
  }

  dynamic "capacity_provider_config" {
    for_each = var.capacity_provider == null ? [] : [var.capacity_provider]
    content {
      lambda_managed_instances_capacity_provider_config {
        capacity_provider_arn                     = capacity_provider_config.value.arn
        execution_environment_memory_gib_per_vcpu = capacity_provider_config.value.memory_gib_per_vcpu
        per_execution_environment_max_concurrency = capacity_provider_config.value.max_concurrency
      }
    }
  }

  dynamic "vpc_config" {
    for_each = length(var.vpc_subnet_ids) > 0 ? [1] : []
    content {
      subnet_ids         = var.vpc_subnet_ids
      security_group_ids = var.vpc_security_group_ids
    }
  }

  lifecycle {
    precondition {
      condition     = var.image_digest != ""
      error_message = "image_digest: push an image to the repository first, and give its digest."
    }
  }

  depends_on = [aws_iam_role_policy.function]
}

# What callers reach. It moves to a new version at once, or stays at stable_version and lets some calls through to the new one.
resource "aws_lambda_alias" "live" {
  count = local.by_codedeploy ? 0 : 1

  name             = "live"
  function_name    = aws_lambda_function.this.function_name
  function_version = local.target_version

  dynamic "routing_config" {
    for_each = var.canary_weight > 0 ? [1] : []
    content {
      additional_version_weights = { (aws_lambda_function.this.version) = var.canary_weight }
    }
  }
}

resource "aws_lambda_provisioned_concurrency_config" "live" {
  count = var.start == "provisioned-concurrency" ? 1 : 0

  function_name                     = aws_lambda_function.this.function_name
  qualifier                         = local.alias.name
  provisioned_concurrent_executions = var.provisioned_concurrency
}
