# Millions of pairs: a JSON Lines file, plain or packed by gzip, put under in/ starts a run, whose scores come to lie under out/. A distributed map cuts the file
# into batches and calls a function of its own for each, so that neither its instances nor its long calls are in the way of others.
data "aws_caller_identity" "current" {}
data "aws_region" "current" {}
data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.id
  partition = data.aws_partition.current.partition
  iam_name  = "${var.name}-${local.region}"
  bulk_name = "${var.name}-bulk"

  # A batch runs as an express workflow, which ends after five minutes. So long a call may take that one which crashes can be made again.
  function_timeout_s = 120
  call_timeout_s     = local.function_timeout_s + 5

  # What a batch may have of the 256 KiB that a state takes, and one line of a batch.
  batch_bytes = 150000
  line_bytes  = 140000

  # Errors that pass by themselves, by the names that Lambda and the service (docs/reference/errors.md) give them.
  transient_errors = [
    "Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException", "Reranker.busy", "Reranker.not_ready", "Reranker.draining", "Reranker.model_unavailable",
  ]
  # What another instance may do better, but not for long: it costs a call's whole time.
  crashes = ["Lambda.Unknown", "Runtime.ExitError", "Runtime.OutOfMemory", "Sandbox.Timedout", "States.Timeout", "Reranker.internal"]
}

module "bucket" {
  source = "../bucket"

  name          = "${var.name}-bulk-${local.account}-${local.region}"
  kms_key_arn   = var.service.kms_key_arn
  force_destroy = var.force_destroy
  expires_days  = var.retention_days
}

resource "aws_cloudwatch_log_group" "bulk" {
  #checkov:skip=CKV_AWS_338:How long logs are worth keeping is log_retention_days; a month is enough to look into what an alarm tells.
  for_each = {
    function = "/aws/lambda/${local.bulk_name}"
    lines    = "/aws/lambda/${local.bulk_name}-lines"
    runs     = "/aws/vendedlogs/states/${local.bulk_name}"
  }

  name              = each.value
  retention_in_days = var.service.log_retention_days
  kms_key_id        = var.service.kms_key_arn
}

resource "aws_iam_role" "bulk_function" {
  name               = "${local.iam_name}-bulk-function"
  assume_role_policy = var.service.assume_role_policy
}

resource "aws_iam_role_policy" "bulk_function" {
  name = "function"
  role = aws_iam_role.bulk_function.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(var.service.statements, [
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
  function_name = local.bulk_name
  description   = "The reranker for files of pairs; called by the state machine of the same name and nobody else"
  role          = aws_iam_role.bulk_function.arn
  package_type  = "Image"
  image_uri     = var.service.image_uri
  architectures = [var.service.architecture]
  memory_size   = var.memory_mb
  timeout       = local.function_timeout_s
  kms_key_arn   = var.service.kms_key_arn
  publish       = true

  # No API keys: it has no address, and IAM says who may call it.
  environment {
    variables = var.service.environment
  }

  ephemeral_storage {
    size = var.service.ephemeral_storage_mb
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.bulk["function"].name
  }

  tracing_config {
    mode = var.service.tracing
  }

  dynamic "vpc_config" {
    for_each = length(var.service.vpc_subnet_ids) > 0 ? [1] : []
    content {
      subnet_ids         = var.service.vpc_subnet_ids
      security_group_ids = var.service.vpc_security_group_ids
    }
  }

  depends_on = [aws_iam_role_policy.bulk_function]
}

# What the state machine calls, so that a new version needs no new definition of it.
resource "aws_lambda_alias" "bulk" {
  name             = "live"
  function_name    = aws_lambda_function.bulk.function_name
  function_version = aws_lambda_function.bulk.version
}

# What reads a file before the map does: it unpacks gzip, and finds the lines that would end the run.

data "archive_file" "lines" {
  type        = "zip"
  output_path = "${path.root}/.terraform/${var.name}-lines.zip"
  source_file = "${path.module}/../../../aws/bulk/lines.py"
}

resource "aws_iam_role" "lines" {
  name               = "${local.iam_name}-bulk-lines"
  assume_role_policy = var.service.assume_role_policy
}

resource "aws_iam_role_policy" "lines" {
  name = "lines"
  role = aws_iam_role.lines.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(var.service.kms_key_arn == null ? [] : [
      { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [var.service.kms_key_arn] },
      ], [
      { Effect = "Allow", Action = ["logs:CreateLogStream", "logs:PutLogEvents"], Resource = ["${aws_cloudwatch_log_group.bulk["lines"].arn}:*"] },
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${module.bucket.arn}/in/*"] },
      { Effect = "Allow", Action = ["s3:PutObject", "s3:AbortMultipartUpload"], Resource = ["${module.bucket.arn}/out/*"] },
    ])
  })
}

resource "aws_lambda_function" "lines" {
  #checkov:skip=CKV_AWS_115:The state machine calls it once for each file.
  #checkov:skip=CKV_AWS_116:The state machine waits for its answer.
  #checkov:skip=CKV_AWS_117:It calls AWS's own interfaces alone.
  #checkov:skip=CKV_AWS_272:Terraform packs the code, from this repository.
  #checkov:skip=CKV_AWS_50:It runs once for each file, and its log says what it saw.
  function_name    = "${local.bulk_name}-lines"
  description      = "Reads files of pairs for the state machine ${local.bulk_name}: gzip, and lines that are no JSON"
  role             = aws_iam_role.lines.arn
  runtime          = "python3.13"
  handler          = "lines.handler"
  filename         = data.archive_file.lines.output_path
  source_code_hash = data.archive_file.lines.output_base64sha256
  # The most that Lambda allows, for the largest files; a vCPU comes with the memory.
  timeout     = 900
  memory_size = 1769
  kms_key_arn = var.service.kms_key_arn

  environment {
    variables = { BUCKET = module.bucket.name, LINE_BYTES = tostring(local.line_bytes) }
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.bulk["lines"].name
  }

  depends_on = [aws_iam_role_policy.lines]
}

resource "aws_iam_role" "bulk" {
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
  name = "run"
  role = aws_iam_role.bulk.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(var.service.kms_key_arn == null ? [] : [
      { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [var.service.kms_key_arn] },
      ], [
      { Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = [aws_lambda_alias.bulk.arn, aws_lambda_function.lines.arn] },
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${module.bucket.arn}/in/*"] },
      {
        Effect   = "Allow"
        Action   = ["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
        Resource = ["${module.bucket.arn}/out/*"]
      },
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
    ])
  })
}

resource "aws_sfn_state_machine" "bulk" {
  #checkov:skip=CKV_AWS_285:It asks for the data of executions in the log: queries and passages, which stay out of every log.
  name     = local.bulk_name
  role_arn = aws_iam_role.bulk.arn
  # Standard, because a run may take hours.
  type = "STANDARD"
  definition = templatefile("${path.module}/bulk.asl.json", {
    partition          = local.partition
    bucket             = module.bucket.name
    function           = aws_lambda_alias.bulk.arn
    batch_pairs        = var.batch_pairs
    batch_bytes        = local.batch_bytes
    lines              = aws_lambda_function.lines.arn
    read_s             = aws_lambda_function.lines.timeout + 5
    concurrency        = var.concurrency
    tolerated_failures = var.tolerated_failures
    call_s             = local.call_timeout_s
    transient          = jsonencode(local.transient_errors)
    crashes            = jsonencode(local.crashes)
    transient_names    = "['${join("', '", local.transient_errors)}']"
  })

  # Queries and passages are the data of executions, and stay out of logs.
  logging_configuration {
    log_destination        = "${aws_cloudwatch_log_group.bulk["runs"].arn}:*"
    include_execution_data = false
    level                  = "ERROR"
  }

  tracing_configuration {
    enabled = var.service.tracing == "Active"
  }

  depends_on = [aws_iam_role_policy.bulk]
}

resource "aws_s3_bucket_notification" "bulk" {
  bucket      = module.bucket.name
  eventbridge = true
}

resource "aws_cloudwatch_event_rule" "bulk" {
  name        = local.bulk_name
  description = "A file of pairs has come"
  event_pattern = jsonencode({
    source      = ["aws.s3"]
    detail-type = ["Object Created"]
    detail = {
      bucket = { name = [module.bucket.name] }
      object = { key = [{ wildcard = "in/*.jsonl" }, { wildcard = "in/*.jsonl.gz" }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "bulk" {
  rule     = aws_cloudwatch_event_rule.bulk.name
  arn      = aws_sfn_state_machine.bulk.arn
  role_arn = aws_iam_role.bulk_start.arn
  input_transformer {
    # EventBridge may deliver an event twice; its sequencer is the same then, and another for another upload of the file.
    input_paths    = { key = "$.detail.object.key", sequencer = "$.detail.object.sequencer" }
    input_template = "{\"key\": <key>, \"sequencer\": <sequencer>}"
  }
}

resource "aws_iam_role" "bulk_start" {
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
  name = "start"
  role = aws_iam_role.bulk_start.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = ["states:StartExecution"], Resource = [aws_sfn_state_machine.bulk.arn] }]
  })
}

resource "aws_cloudwatch_metric_alarm" "bulk" {
  alarm_name          = "${local.bulk_name}-failed"
  alarm_description   = "A run over a file of pairs was aborted. Its execution names the failed batches. Redrive it once the cause is gone; only those run again."
  namespace           = "AWS/States"
  metric_name         = "ExecutionsFailed"
  dimensions          = { StateMachineArn = aws_sfn_state_machine.bulk.arn }
  statistic           = "Sum"
  threshold           = 0
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.service.alarm_actions
  ok_actions          = var.service.alarm_actions
}
