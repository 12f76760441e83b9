# What must be refused, each by the variable that is wrong: those that a run lists must fail, and no other.

mock_provider "aws" {}
mock_provider "archive" {}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
}

run "values_that_lambda_and_its_neighbours_do_not_take" {
  command = plan
  variables {
    image_digest          = "latest"
    name                  = "Re_ranker"
    memory_mb             = 512
    timeout_s             = 901
    architecture          = "riscv64"
    reserved_concurrency  = 0
    init_budget_s         = 10
    stable_version        = "$LATEST"
    model_uri             = "https://example.com/model"
    max_length            = 100000
    environment           = { API_KEYS = "first" }
    api_key_hashes        = ["first"]
    api_keys_secret_arn   = "keys"
    function_url_accounts = ["*"]
    throttle_rate         = 0
    throttle_burst        = 0
    log_retention_days    = 31
    kms_key_arn           = "alias/key"
    tracing               = "On"
    otlp_endpoint         = "collector:4318"
    alarm_topic_arn       = "alarms"
    alarm_p99_ms          = 0
    alarm_init_ms         = 0
    probe_key_secret_arn  = "probe"
  }
  expect_failures = [var.image_digest, var.name, var.memory_mb, var.timeout_s, var.architecture, var.reserved_concurrency, var.init_budget_s, var.stable_version, var.model_uri, var.max_length, var.environment, var.api_key_hashes, var.api_keys_secret_arn, var.function_url_accounts, var.throttle_rate, var.throttle_burst, var.log_retention_days, var.kms_key_arn, var.tracing, var.otlp_endpoint, var.alarm_topic_arn, var.alarm_p99_ms, var.alarm_init_ms, var.probe_key_secret_arn]
}

run "more_of_them" {
  command = plan
  variables {
    name      = "a-name-of-more-than-24-ch"
    memory_mb = 10241
    model_uri = "s3://models/*"
  }
  expect_failures = [var.name, var.memory_mb, var.model_uri]
}

run "an_unknown_start" {
  command = plan
  variables {
    start = "warm"
  }
  expect_failures = [var.start]
}

run "snapshots_with_provisioned_instances" {
  command = plan
  variables {
    start                   = "snap-start"
    provisioned_concurrency = 1
  }
  expect_failures = [var.provisioned_concurrency]
}

run "provisioned_without_a_count" {
  command = plan
  variables {
    start = "provisioned-concurrency"
  }
  expect_failures = [var.provisioned_concurrency]
}

run "snapshots_with_a_large_tmp" {
  command = plan
  variables {
    start                = "snap-start"
    ephemeral_storage_mb = 1024
  }
  expect_failures = [var.ephemeral_storage_mb]
}

run "a_canary_beside_nothing" {
  command = plan
  variables {
    canary_weight = 0.1
  }
  expect_failures = [var.canary_weight]
}

run "an_unknown_log_level" {
  command = plan
  variables {
    log_level = "loud"
  }
  expect_failures = [var.log_level]
}

run "everyone_by_mistake" {
  command = plan
  variables {
    api_key_hashes = []
  }
  expect_failures = [var.http_api_authorization]
}

run "an_unknown_authorization" {
  command = plan
  variables {
    http_api_authorization = "CUSTOM"
  }
  expect_failures = [var.http_api_authorization]
}

run "tokens_of_nobody" {
  command = plan
  variables {
    http_api_authorization = "JWT"
    jwt_audience           = ["reranker"]
  }
  expect_failures = [var.jwt_issuer]
}

run "tokens_for_nobody" {
  command = plan
  variables {
    http_api_authorization = "JWT"
    jwt_issuer             = "https://issuer.example.com"
  }
  expect_failures = [var.jwt_audience]
}

run "subnets_without_a_security_group" {
  command = plan
  variables {
    vpc_subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.vpc_security_group_ids]
}

run "a_function_without_an_image" {
  command = plan
  variables {
    image_digest = ""
  }
  expect_failures = [aws_lambda_function.this]
}

run "a_rollout_that_codedeploy_does_not_know" {
  command = plan
  variables {
    rollout       = "Slowly"
    keep_versions = 1
    metrics       = "some"
  }
  expect_failures = [var.rollout, var.keep_versions, var.metrics]
}

run "two_ways_to_shift_calls" {
  command = plan
  variables {
    rollout        = "AllAtOnce"
    stable_version = "7"
    canary_weight  = 0.1
  }
  expect_failures = [var.rollout]
}

run "metrics_from_a_log_that_has_no_requests" {
  command = plan
  variables {
    log_level = "error"
  }
  expect_failures = [var.metrics]
}

run "snapshots_of_instances_that_are_always_warm" {
  command = plan
  variables {
    start             = "snap-start"
    capacity_provider = { arn = "arn:aws:lambda:eu-central-1:123456789012:capacity-provider:reranker" }
  }
  expect_failures = [var.capacity_provider]
}
