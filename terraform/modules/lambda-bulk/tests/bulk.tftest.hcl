# The bulk function and its state machine, planned against a provider that reaches no cloud.

mock_provider "archive" {
  mock_data "archive_file" {
    defaults = { output_path = "lines.zip", output_base64sha256 = "AAAA" }
  }
}

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
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::bucket" }
  }
  mock_resource "aws_sfn_state_machine" {
    defaults = { arn = "arn:aws:states:eu-central-1:123456789012:stateMachine:reranker-bulk" }
  }
}

variables {
  name = "reranker"
  service = {
    image_uri              = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    architecture           = "x86_64"
    ephemeral_storage_mb   = 512
    environment            = { MAX_LENGTH = "512" }
    assume_role_policy     = "{}"
    statements             = []
    vpc_subnet_ids         = []
    vpc_security_group_ids = []
    log_retention_days     = 30
    kms_key_arn            = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    tracing                = "PassThrough"
    alarm_actions          = []
  }
}

run "bulk" {
  variables {
    batch_pairs = 50
    concurrency = 20
  }
  assert {
    condition = alltrue([
      jsondecode(aws_sfn_state_machine.bulk.definition).States["Every pair"].MaxConcurrency == 20,
      jsondecode(aws_sfn_state_machine.bulk.definition).States["Every pair"].ItemBatcher.MaxItemsPerBatch == 50,
      jsondecode(aws_sfn_state_machine.bulk.definition).States["Every pair"].ItemReader.Arguments.Bucket == "reranker-bulk-123456789012-eu-central-1",
      jsondecode(aws_sfn_state_machine.bulk.definition).States["Every pair"].ItemProcessor.States.Score.Arguments.FunctionName == aws_lambda_alias.bulk.arn,
    ])
    error_message = "the machine reads the bucket in batches and calls the alias"
  }
  assert {
    condition = alltrue([
      jsondecode(aws_sfn_state_machine.bulk.definition).States["Read the lines"].Arguments.FunctionName == aws_lambda_function.lines.arn,
      tonumber(aws_lambda_function.lines.environment[0].variables.LINE_BYTES) < jsondecode(aws_sfn_state_machine.bulk.definition).States["Every pair"].ItemBatcher.MaxInputBytesPerBatch,
      aws_lambda_function.lines.timeout < jsondecode(aws_sfn_state_machine.bulk.definition).States["Read the lines"].TimeoutSeconds,
    ])
    error_message = "a file is read by a function first, which lets no line through that no batch could hold"
  }
  assert {
    condition     = !contains(keys(aws_lambda_function.bulk.environment[0].variables), "API_KEYS") && aws_lambda_function.bulk.timeout < jsondecode(aws_sfn_state_machine.bulk.definition).States["Every pair"].ItemProcessor.States.Score.TimeoutSeconds
    error_message = "the bulk function needs no key, and ends before its call does"
  }
  assert {
    condition = alltrue([
      for name in ["key", "sequencer"] :
      aws_cloudwatch_event_target.bulk.input_transformer[0].input_paths[name] == "$.detail.object.${name}" && strcontains(aws_cloudwatch_event_target.bulk.input_transformer[0].input_template, "\"${name}\": <${name}>")
    ])
    error_message = "the machine is told which upload of which file it is, so that an event that comes twice is scored once"
  }
  assert {
    condition     = !aws_sfn_state_machine.bulk.tracing_configuration[0].enabled
    error_message = "traces are paid for, so the state machine sends none unless `tracing` is Active"
  }
  assert {
    condition     = !aws_sfn_state_machine.bulk.logging_configuration[0].include_execution_data
    error_message = "texts stay out of logs"
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.bulk.policy).Statement :
      !contains(statement.Resource, "*") || alltrue([for action in statement.Action : can(regex("^(logs|xray):", action))])
    ])
    error_message = "only the delivery of logs and traces is allowed on everything"
  }
  assert {
    condition     = aws_s3_bucket_notification.bulk.eventbridge && [for key in jsondecode(aws_cloudwatch_event_rule.bulk.event_pattern).detail.object.key : key.wildcard] == ["in/*.jsonl", "in/*.jsonl.gz"]
    error_message = "a file under in/ starts a run, and results under out/ do not"
  }
}

run "names_fit_and_have_their_region" {
  variables {
    name = "a-name-of-24-characters1"
  }
  assert {
    # ap-southeast-1 is as long as a region's name gets.
    condition     = length(output.bucket) + length("ap-southeast-1") - length("eu-central-1") <= 63
    error_message = "S3 takes 63 characters"
  }
  assert {
    condition = alltrue([
      for name in [aws_iam_role.bulk.name, aws_iam_role.bulk_function.name, aws_iam_role.bulk_start.name] :
      strcontains(name, "eu-central-1") && length(name) + length("ap-southeast-1") - length("eu-central-1") <= 64
    ])
    error_message = "IAM's names are the account's, and have 64 characters at most"
  }
}

run "what_no_run_can_do" {
  command = plan
  variables {
    batch_pairs        = 1001
    memory_mb          = 128
    concurrency        = 0
    tolerated_failures = 101
    retention_days     = 0
  }
  expect_failures = [var.batch_pairs, var.memory_mb, var.concurrency, var.tolerated_failures, var.retention_days]
}
