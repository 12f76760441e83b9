output "repository_url" {
  description = "Where the image is pushed to."
  value       = aws_ecr_repository.this.repository_url
}

output "api_url" {
  description = "Where clients with an API key go."
  value       = aws_apigatewayv2_api.this.api_endpoint
}

output "function_url" {
  description = "Where callers with IAM go; requests are signed for the service lambda."
  value       = aws_lambda_function_url.live.function_url
}

output "caller_policy_arn" {
  description = "Policy for whoever may call the Function URL."
  value       = aws_iam_policy.caller.arn
}

output "alias_arn" {
  description = "The alias that callers reach."
  value       = aws_lambda_alias.live.arn
}

output "version" {
  description = "The newest published version; stable_version goes back to one before it."
  value       = aws_lambda_function.this.version
}

output "log_groups" {
  description = "The function's log and the HTTP API's access log."
  value       = { function = aws_cloudwatch_log_group.function.name, access = aws_cloudwatch_log_group.access.name }
}

output "model_bucket" {
  description = "Bucket for packed models, with create_model_bucket."
  value       = try(aws_s3_bucket.this["models"].bucket, null)
}

output "bulk_bucket" {
  description = "Bucket whose in/ takes files of pairs and whose out/ gets their scores, with bulk."
  value       = try(aws_s3_bucket.this["bulk"].bucket, null)
}

output "bulk_state_machine_arn" {
  description = "The machine that scores files of pairs, with bulk."
  value       = try(aws_sfn_state_machine.bulk[0].arn, null)
}
