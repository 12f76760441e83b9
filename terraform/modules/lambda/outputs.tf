output "api_url" {
  description = "URL for clients with an API key."
  value       = aws_apigatewayv2_api.this.api_endpoint
}

output "api_id" {
  description = "The HTTP API, for a domain of one's own."
  value       = aws_apigatewayv2_api.this.id
}

output "function_url" {
  description = "URL for callers with IAM; they sign requests for the service lambda."
  value       = aws_lambda_function_url.live.function_url
}

output "caller_policy_arn" {
  description = "Policy for callers of the Function URL, and of the HTTP API if it asks for IAM."
  value       = aws_iam_policy.caller.arn
}

output "alias_arn" {
  description = "The alias that callers reach."
  value       = local.alias.arn
}

output "version" {
  description = "The newest published version. stable_version rolls back to an earlier one."
  value       = aws_lambda_function.this.version
}

output "log_groups" {
  description = "The function's log and the HTTP API's access log."
  value       = { function = aws_cloudwatch_log_group.function.name, access = aws_cloudwatch_log_group.access.name }
}

output "service" {
  description = "Settings that a bulk function shares with this one, for the module `lambda-bulk`."
  value = {
    image_uri              = local.image_uri
    architecture           = var.architecture
    ephemeral_storage_mb   = var.ephemeral_storage_mb
    environment            = local.shared_environment
    assume_role_policy     = local.assume_lambda
    statements             = local.shared_statements
    vpc_subnet_ids         = var.vpc_subnet_ids
    vpc_security_group_ids = var.vpc_security_group_ids
    log_retention_days     = var.log_retention_days
    kms_key_arn            = local.key_arn
    tracing                = var.tracing
    alarm_actions          = local.alarm_actions
  }
}
