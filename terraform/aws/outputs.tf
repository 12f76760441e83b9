output "repository_url" {
  description = "Address to push the image to."
  value       = aws_ecr_repository.this.repository_url
}

output "api_url" {
  description = "URL for clients with an API key."
  value       = module.lambda.api_url
}

output "function_url" {
  description = "URL for callers with IAM; they sign requests for the service lambda."
  value       = module.lambda.function_url
}

output "caller_policy_arn" {
  description = "Policy for callers of the Function URL, and of the HTTP API if it asks for IAM."
  value       = module.lambda.caller_policy_arn
}

output "alias_arn" {
  description = "The alias that callers reach."
  value       = module.lambda.alias_arn
}

output "version" {
  description = "The newest published version. stable_version rolls back to an earlier one."
  value       = module.lambda.version
}

output "log_groups" {
  description = "The function's log and the HTTP API's access log."
  value       = module.lambda.log_groups
}

output "model_bucket" {
  description = "Bucket for packed models, with create_model_bucket."
  value       = one(module.model_bucket[*].name)
}

output "bulk_bucket" {
  description = "Bucket whose in/ takes files of pairs and whose out/ gets their scores, with bulk."
  value       = one(module.bulk[*].bucket)
}

output "bulk_state_machine_arn" {
  description = "The machine that scores files of pairs, with bulk."
  value       = one(module.bulk[*].state_machine_arn)
}
