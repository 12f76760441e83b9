locals {
  # By the policy's attributes and not the repository's, so that no function is made before Lambda may fetch its image.
  repository_url = "${aws_ecr_repository_policy.this.registry_id}.dkr.ecr.${local.region}.${data.aws_partition.current.dns_suffix}/${aws_ecr_repository_policy.this.repository}"
}

# The service: a function behind an HTTP API and a Function URL.
module "lambda" {
  source = "../modules/lambda"

  repository_url = local.repository_url
  kms_key_arn    = local.key_arn

  name                    = var.name
  image_digest            = var.image_digest
  architecture            = var.architecture
  memory_mb               = var.memory_mb
  timeout_s               = var.timeout_s
  ephemeral_storage_mb    = var.ephemeral_storage_mb
  reserved_concurrency    = var.reserved_concurrency
  start                   = var.start
  provisioned_concurrency = var.provisioned_concurrency
  init_budget_s           = var.init_budget_s
  rollout                 = var.rollout
  probe_key_secret_arn    = var.probe_key_secret_arn
  keep_versions           = var.keep_versions
  metrics                 = var.metrics
  dashboard               = var.dashboard
  stable_version          = var.stable_version
  canary_weight           = var.canary_weight
  model_uri               = var.model_uri
  max_length              = var.max_length
  log_level               = var.log_level
  environment             = var.environment
  api_key_hashes          = var.api_key_hashes
  api_keys_secret_arn     = var.api_keys_secret_arn
  http_api_authorization  = var.http_api_authorization
  allow_anonymous         = var.allow_anonymous
  jwt_issuer              = var.jwt_issuer
  jwt_audience            = var.jwt_audience
  function_url_accounts   = var.function_url_accounts
  throttle_rate           = var.throttle_rate
  throttle_burst          = var.throttle_burst
  vpc_subnet_ids          = var.vpc_subnet_ids
  vpc_security_group_ids  = var.vpc_security_group_ids
  log_retention_days      = var.log_retention_days
  tracing                 = var.tracing
  otlp_endpoint           = var.otlp_endpoint
  alarm_topic_arn         = var.alarm_topic_arn
  alarm_p99_ms            = var.alarm_p99_ms
  alarm_init_ms           = var.alarm_init_ms
}

# Millions of pairs, from S3 to S3.
module "bulk" {
  source = "../modules/lambda-bulk"
  count  = var.bulk ? 1 : 0

  name               = var.name
  service            = module.lambda.service
  force_destroy      = var.force_destroy
  memory_mb          = var.bulk_memory_mb
  batch_pairs        = var.bulk_batch_pairs
  concurrency        = var.bulk_concurrency
  tolerated_failures = var.bulk_tolerated_failures
  retention_days     = var.bulk_retention_days
}

# Of packed models.
module "model_bucket" {
  source = "../modules/bucket"
  count  = var.create_model_bucket ? 1 : 0

  name          = "${var.name}-models-${local.account}-${local.region}"
  kms_key_arn   = local.key_arn
  force_destroy = var.force_destroy
}
