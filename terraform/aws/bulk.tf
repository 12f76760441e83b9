# Millions of pairs: a JSON Lines file put under in/ starts a run, whose scores come to lie under out/. A distributed map cuts the file
# into batches and calls a function of its own for each, so that neither its instances nor its long calls are in the way of others.
locals {
  bulk      = var.bulk ? 1 : 0
  bulk_name = "${var.name}-bulk"
}

resource "aws_cloudwatch_log_group" "bulk" {
  #checkov:skip=CKV_AWS_338:How long logs are worth keeping is log_retention_days; a month is enough to look into what an alarm tells.
  for_each = var.bulk ? { function = "/aws/lambda/${local.bulk_name}", runs = "/aws/vendedlogs/states/${local.bulk_name}" } : {}

  name              = each.value
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key_arn
}

resource "aws_iam_role" "bulk_function" {
  count = local.bulk

  name               = "${local.iam_name}-bulk-function"
  assume_role_policy = local.assume_lambda
}

resource "aws_iam_role_policy" "bulk_function" {
  count = local.bulk

  name = "function"
  role = aws_iam_role.bulk_function[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(local.shared_statements, [
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.bulk["function"].arn}:*"]
      },
    ])
  })
}

resource "aws_lambda_function" "bulk" {
  #checkov:skip=CKV_AWS_115:The state machine's MaxConcurrency bounds it; reserving would take instances from others for ever.
  #checkov:skip=CKV_AWS_116:The state machine waits for each answer, and lists what failed beside the results.
  #checkov:skip=CKV_AWS_272:Lambda can't check signatures of container images; the digest names the bytes.
  count = local.bulk

  function_name = local.bulk_name
  description   = "The reranker for files of pairs; called by the state machine of the same name and nobody else"
  role          = aws_iam_role.bulk_function[0].arn
  package_type  = "Image"
  image_uri     = local.image_uri
  architectures = [var.architecture]
  memory_size   = var.bulk_memory_mb
  # A batch runs as an express workflow, which ends after five minutes.
  timeout     = 240
  kms_key_arn = local.key_arn
  publish     = true

  # No API keys: it has no address, and IAM says who may call it.
  environment {
    variables = local.shared_environment
  }

  ephemeral_storage {
    size = var.ephemeral_storage_mb
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.bulk["function"].name
  }

  tracing_config {
    mode = var.tracing
  }

  dynamic "vpc_config" {
    for_each = length(var.vpc_subnet_ids) > 0 ? [1] : []
    content {
      subnet_ids         = var.vpc_subnet_ids
      security_group_ids = var.vpc_security_group_ids
    }
  }

  depends_on = [aws_ecr_repository_policy.this, aws_iam_role_policy.bulk_function]
}

# What the state machine calls, so that a new version needs no new definition of it.
resource "aws_lambda_alias" "bulk" {
  count = local.bulk

  name             = "live"
  function_name    = aws_lambda_function.bulk[0].function_name
  function_version = aws_lambda_function.bulk[0].version
}

resource "aws_iam_role" "bulk" {
  count = local.bulk

  name = "${local.iam_name}-bulk"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "states.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "bulk" {
  count = local.bulk

  name = "run"
  role = aws_iam_role.bulk[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = [aws_lambda_alias.bulk[0].arn] },
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${aws_s3_bucket.this["bulk"].arn}/in/*"] },
      {
        Effect   = "Allow"
        Action   = ["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
        Resource = ["${aws_s3_bucket.this["bulk"].arn}/out/*"]
      },
      { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [local.key_arn] },
      # A distributed map starts its batches as executions of the same machine.
      {
        Effect   = "Allow"
        Action   = ["states:StartExecution"]
        Resource = ["arn:${local.partition}:states:${local.region}:${local.account}:stateMachine:${local.bulk_name}"]
      },
      {
        Effect   = "Allow"
        Action   = ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"]
        Resource = ["arn:${local.partition}:states:${local.region}:${local.account}:execution:${local.bulk_name}/*"]
      },
      {
        Effect = "Allow"
        Action = [
          "logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery", "logs:ListLogDeliveries",
          "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups",
          "xray:PutTraceSegments", "xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets",
        ]
        Resource = ["*"]
      },
    ]
  })
}

resource "aws_sfn_state_machine" "bulk" {
  #checkov:skip=CKV_AWS_285:It asks for the data of executions in the log: queries and passages, which stay out of every log.
  count = local.bulk

  name     = local.bulk_name
  role_arn = aws_iam_role.bulk[0].arn
  # Standard, because a run may take hours.
  type = "STANDARD"
  definition = templatefile("${path.module}/bulk.asl.json", {
    partition          = local.partition
    bucket             = aws_s3_bucket.this["bulk"].bucket
    function           = aws_lambda_alias.bulk[0].arn
    batch_pairs        = var.bulk_batch_pairs
    batch_bytes        = 150000
    concurrency        = var.bulk_concurrency
    tolerated_failures = var.bulk_tolerated_failures
  })

  # Queries and passages are the data of executions, and stay out of logs.
  logging_configuration {
    log_destination        = "${aws_cloudwatch_log_group.bulk["runs"].arn}:*"
    include_execution_data = false
    level                  = "ERROR"
  }

  tracing_configuration {
    enabled = var.tracing == "Active"
  }

  depends_on = [aws_iam_role_policy.bulk]
}

resource "aws_s3_bucket_notification" "bulk" {
  count = local.bulk

  bucket      = aws_s3_bucket.this["bulk"].id
  eventbridge = true
}

resource "aws_cloudwatch_event_rule" "bulk" {
  count = local.bulk

  name        = local.bulk_name
  description = "A file of pairs has come"
  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created"]
    detail = {
      bucket = { name = [aws_s3_bucket.this["bulk"].bucket] }
      object = { key = [{ wildcard = "in/*.jsonl" }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "bulk" {
  count = local.bulk

  rule     = aws_cloudwatch_event_rule.bulk[0].name
  arn      = aws_sfn_state_machine.bulk[0].arn
  role_arn = aws_iam_role.bulk_start[0].arn
  input_transformer {
    input_paths    = { key = "$.detail.object.key" }
    input_template = "{\"key\": <key>}"
  }
}

resource "aws_iam_role" "bulk_start" {
  count = local.bulk

  name = "${local.iam_name}-bulk-start"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "bulk_start" {
  count = local.bulk

  name = "start"
  role = aws_iam_role.bulk_start[0].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = ["states:StartExecution"], Resource = [aws_sfn_state_machine.bulk[0].arn] }]
  })
}

resource "aws_cloudwatch_metric_alarm" "bulk" {
  count = local.bulk

  alarm_name          = "${local.bulk_name}-failed"
  alarm_description   = "A run over a file of pairs was given up. Its execution names the batches; redrive it once the cause is gone, and only those run again."
  namespace           = "AWS/States"
  metric_name         = "ExecutionsFailed"
  dimensions          = { StateMachineArn = aws_sfn_state_machine.bulk[0].arn }
  statistic           = "Sum"
  threshold           = 0
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}
