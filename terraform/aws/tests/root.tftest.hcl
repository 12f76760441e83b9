# What this root adds to the modules, which have tests of their own.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-central-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "first,second" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab" }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker" }
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
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::bucket" }
  }
  mock_resource "aws_sfn_state_machine" {
    defaults = { arn = "arn:aws:states:eu-central-1:123456789012:stateMachine:reranker-bulk" }
  }
  mock_resource "aws_ecr_repository_policy" {
    defaults = { registry_id = "123456789012" }
  }
}

mock_provider "archive" {
  mock_data "archive_file" {
    defaults = { output_path = "rollout.zip", output_base64sha256 = "0000" }
  }
}

variables {
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
}

run "smallest" {
  assert {
    condition     = module.lambda.service.image_uri == "${aws_ecr_repository.this.repository_url}@${var.image_digest}"
    error_message = "the function runs the registry's image by its digest"
  }
  assert {
    condition = alltrue([
      aws_ecr_repository.this.image_tag_mutability == "IMMUTABLE",
      aws_ecr_repository.this.image_scanning_configuration[0].scan_on_push,
      aws_ecr_repository.this.encryption_configuration[0].encryption_type == "KMS",
      aws_ecr_repository.this.encryption_configuration[0].kms_key == aws_kms_key.this[0].arn,
      module.lambda.service.kms_key_arn == aws_kms_key.this[0].arn,
    ])
    error_message = "the registry's tags stay, its images are scanned, and one key encrypts them, the logs and the variables"
  }
  assert {
    condition     = output.model_bucket == null && output.bulk_bucket == null && output.bulk_state_machine_arn == null
    error_message = "buckets and bulk work are for those who ask"
  }
  assert {
    condition     = !aws_ecr_repository.this.force_delete
    error_message = "images stay"
  }
}

run "everything" {
  variables {
    name                = "a-name-of-24-characters1"
    create_model_bucket = true
    bulk                = true
    force_destroy       = true
    kms_key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/0"
  }
  assert {
    # ap-southeast-1 is as long as a region's name gets.
    condition     = alltrue([for bucket in [output.model_bucket, output.bulk_bucket] : length(bucket) + length("ap-southeast-1") - length("eu-central-1") <= 63])
    error_message = "S3 takes 63 characters"
  }
  assert {
    condition     = length(aws_kms_key.this) == 0 && module.lambda.service.kms_key_arn == var.kms_key_arn
    error_message = "the given key is used, and none is made"
  }
  assert {
    condition     = aws_ecr_repository.this.force_delete
    error_message = "else `terraform destroy` stops at the first image"
  }
  assert {
    condition     = output.bulk_state_machine_arn != null
    error_message = "bulk work was asked for"
  }
}

run "a_name_that_makes_a_bucket_too_long_for_s3" {
  command = plan
  variables {
    name = "a-name-of-more-than-24-ch"
  }
  expect_failures = [var.name]
}

run "a_key_by_its_alias" {
  command = plan
  variables {
    kms_key_arn = "alias/key"
  }
  expect_failures = [var.kms_key_arn]
}
