# Where everything was before there were modules, so that a stack of that time is not made anew.

moved {
  from = aws_cloudwatch_log_group.function
  to   = module.lambda.aws_cloudwatch_log_group.function
}

moved {
  from = aws_iam_role.function
  to   = module.lambda.aws_iam_role.function
}

moved {
  from = aws_iam_role_policy.function
  to   = module.lambda.aws_iam_role_policy.function
}

moved {
  from = aws_lambda_function.this
  to   = module.lambda.aws_lambda_function.this
}

moved {
  from = aws_lambda_alias.live
  to   = module.lambda.aws_lambda_alias.live[0]
}

moved {
  from = aws_lambda_provisioned_concurrency_config.live
  to   = module.lambda.aws_lambda_provisioned_concurrency_config.live
}

moved {
  from = aws_cloudwatch_log_group.access
  to   = module.lambda.aws_cloudwatch_log_group.access
}

moved {
  from = aws_apigatewayv2_api.this
  to   = module.lambda.aws_apigatewayv2_api.this
}

moved {
  from = aws_apigatewayv2_integration.this
  to   = module.lambda.aws_apigatewayv2_integration.this
}

moved {
  from = aws_apigatewayv2_authorizer.jwt
  to   = module.lambda.aws_apigatewayv2_authorizer.jwt
}

moved {
  from = aws_apigatewayv2_route.every
  to   = module.lambda.aws_apigatewayv2_route.every
}

moved {
  from = aws_apigatewayv2_stage.default
  to   = module.lambda.aws_apigatewayv2_stage.default
}

moved {
  from = aws_lambda_permission.api
  to   = module.lambda.aws_lambda_permission.api
}

moved {
  from = aws_lambda_function_url.live
  to   = module.lambda.aws_lambda_function_url.live
}

moved {
  from = aws_iam_policy.caller
  to   = module.lambda.aws_iam_policy.caller
}

moved {
  from = aws_lambda_permission.url
  to   = module.lambda.aws_lambda_permission.url
}

moved {
  from = aws_lambda_permission.url_invoke
  to   = module.lambda.aws_lambda_permission.url_invoke
}

moved {
  from = aws_cloudwatch_metric_alarm.this
  to   = module.lambda.aws_cloudwatch_metric_alarm.this
}

moved {
  from = aws_cloudwatch_log_metric_filter.start
  to   = module.lambda.aws_cloudwatch_log_metric_filter.start
}

moved {
  from = aws_cloudwatch_log_group.bulk
  to   = module.bulk[0].aws_cloudwatch_log_group.bulk
}

moved {
  from = aws_iam_role.bulk_function[0]
  to   = module.bulk[0].aws_iam_role.bulk_function
}

moved {
  from = aws_iam_role_policy.bulk_function[0]
  to   = module.bulk[0].aws_iam_role_policy.bulk_function
}

moved {
  from = aws_lambda_function.bulk[0]
  to   = module.bulk[0].aws_lambda_function.bulk
}

moved {
  from = aws_lambda_alias.bulk[0]
  to   = module.bulk[0].aws_lambda_alias.bulk
}

moved {
  from = aws_iam_role.bulk[0]
  to   = module.bulk[0].aws_iam_role.bulk
}

moved {
  from = aws_iam_role_policy.bulk[0]
  to   = module.bulk[0].aws_iam_role_policy.bulk
}

moved {
  from = aws_sfn_state_machine.bulk[0]
  to   = module.bulk[0].aws_sfn_state_machine.bulk
}

moved {
  from = aws_s3_bucket_notification.bulk[0]
  to   = module.bulk[0].aws_s3_bucket_notification.bulk
}

moved {
  from = aws_cloudwatch_event_rule.bulk[0]
  to   = module.bulk[0].aws_cloudwatch_event_rule.bulk
}

moved {
  from = aws_cloudwatch_event_target.bulk[0]
  to   = module.bulk[0].aws_cloudwatch_event_target.bulk
}

moved {
  from = aws_iam_role.bulk_start[0]
  to   = module.bulk[0].aws_iam_role.bulk_start
}

moved {
  from = aws_iam_role_policy.bulk_start[0]
  to   = module.bulk[0].aws_iam_role_policy.bulk_start
}

moved {
  from = aws_cloudwatch_metric_alarm.bulk[0]
  to   = module.bulk[0].aws_cloudwatch_metric_alarm.bulk
}

moved {
  from = aws_s3_bucket.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket.this
}

moved {
  from = aws_s3_bucket.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket.this
}

moved {
  from = aws_s3_bucket_public_access_block.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket_public_access_block.this
}

moved {
  from = aws_s3_bucket_public_access_block.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket_public_access_block.this
}

moved {
  from = aws_s3_bucket_ownership_controls.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket_ownership_controls.this
}

moved {
  from = aws_s3_bucket_ownership_controls.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket_ownership_controls.this
}

moved {
  from = aws_s3_bucket_versioning.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket_versioning.this
}

moved {
  from = aws_s3_bucket_versioning.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket_versioning.this
}

moved {
  from = aws_s3_bucket_server_side_encryption_configuration.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket_server_side_encryption_configuration.this
}

moved {
  from = aws_s3_bucket_server_side_encryption_configuration.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket_server_side_encryption_configuration.this
}

moved {
  from = aws_s3_bucket_lifecycle_configuration.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket_lifecycle_configuration.this
}

moved {
  from = aws_s3_bucket_lifecycle_configuration.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket_lifecycle_configuration.this
}

moved {
  from = aws_s3_bucket_policy.this["bulk"]
  to   = module.bulk[0].module.bucket.aws_s3_bucket_policy.this
}

moved {
  from = aws_s3_bucket_policy.this["models"]
  to   = module.model_bucket[0].aws_s3_bucket_policy.this
}
