# What must be refused, each by the variable that is wrong.

mock_provider "aws" {}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
}

run "a_tag_is_no_digest" {
  command = plan
  variables {
    image_digest = "latest"
  }
  expect_failures = [var.image_digest]
}

run "a_name_is_small_letters" {
  command = plan
  variables {
    name = "Re_ranker"
  }
  expect_failures = [var.name]
}

run "a_name_that_makes_a_bucket_too_long_for_s3" {
  command = plan
  variables {
    name = "a-name-of-more-than-24-ch"
  }
  expect_failures = [var.name]
}

run "less_than_a_core" {
  command = plan
  variables {
    memory_mb = 512
  }
  expect_failures = [var.memory_mb]
}

run "more_than_lambda_has" {
  command = plan
  variables {
    memory_mb = 10241
  }
  expect_failures = [var.memory_mb]
}

run "a_timeout_over_fifteen_minutes" {
  command = plan
  variables {
    timeout_s = 901
  }
  expect_failures = [var.timeout_s]
}

run "an_unknown_architecture" {
  command = plan
  variables {
    architecture = "riscv64"
  }
  expect_failures = [var.architecture]
}

run "reserving_nothing_at_all" {
  command = plan
  variables {
    reserved_concurrency = 0
  }
  expect_failures = [var.reserved_concurrency]
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

run "an_init_as_long_as_lambdas" {
  command = plan
  variables {
    init_budget_s = 10
  }
  expect_failures = [var.init_budget_s]
}

run "a_canary_beside_nothing" {
  command = plan
  variables {
    canary_weight = 0.1
  }
  expect_failures = [var.canary_weight]
}

run "a_version_that_is_no_number" {
  command = plan
  variables {
    stable_version = "$LATEST"
  }
  expect_failures = [var.stable_version]
}

run "a_model_that_is_not_in_s3" {
  command = plan
  variables {
    model_uri = "https://example.com/model"
  }
  expect_failures = [var.model_uri]
}

run "a_model_prefix_with_a_wildcard" {
  command = plan
  variables {
    model_uri = "s3://models/*"
  }
  expect_failures = [var.model_uri]
}

run "a_length_that_no_model_has" {
  command = plan
  variables {
    max_length = 100000
  }
  expect_failures = [var.max_length]
}

run "an_unknown_log_level" {
  command = plan
  variables {
    log_level = "loud"
  }
  expect_failures = [var.log_level]
}

run "keys_by_the_back_door" {
  command = plan
  variables {
    environment = { API_KEYS = "first" }
  }
  expect_failures = [var.environment]
}

run "a_key_that_is_not_hashed" {
  command = plan
  variables {
    api_key_hashes = ["first"]
  }
  expect_failures = [var.api_key_hashes]
}

run "a_secret_by_its_name" {
  command = plan
  variables {
    api_keys_secret_arn = "keys"
  }
  expect_failures = [var.api_keys_secret_arn]
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

run "an_account_that_is_none" {
  command = plan
  variables {
    function_url_accounts = ["*"]
  }
  expect_failures = [var.function_url_accounts]
}

run "a_rate_of_nothing" {
  command = plan
  variables {
    throttle_rate = 0
  }
  expect_failures = [var.throttle_rate]
}

run "a_burst_of_nothing" {
  command = plan
  variables {
    throttle_burst = 0
  }
  expect_failures = [var.throttle_burst]
}

run "subnets_without_a_security_group" {
  command = plan
  variables {
    vpc_subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.vpc_security_group_ids]
}

run "a_retention_that_cloudwatch_does_not_know" {
  command = plan
  variables {
    log_retention_days = 31
  }
  expect_failures = [var.log_retention_days]
}

run "a_key_by_its_alias" {
  command = plan
  variables {
    kms_key_arn = "alias/key"
  }
  expect_failures = [var.kms_key_arn]
}

run "an_unknown_tracing" {
  command = plan
  variables {
    tracing = "On"
  }
  expect_failures = [var.tracing]
}

run "a_collector_without_a_scheme" {
  command = plan
  variables {
    otlp_endpoint = "collector:4318"
  }
  expect_failures = [var.otlp_endpoint]
}

run "a_topic_by_its_name" {
  command = plan
  variables {
    alarm_topic_arn = "alarms"
  }
  expect_failures = [var.alarm_topic_arn]
}

run "an_alarm_at_nothing" {
  command = plan
  variables {
    alarm_p99_ms = 0
  }
  expect_failures = [var.alarm_p99_ms]
}

run "a_start_alarm_at_nothing" {
  command = plan
  variables {
    alarm_init_ms = 0
  }
  expect_failures = [var.alarm_init_ms]
}

run "a_function_without_an_image" {
  command = plan
  variables {
    image_digest = ""
  }
  expect_failures = [aws_lambda_function.this]
}
