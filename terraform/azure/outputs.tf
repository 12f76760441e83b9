output "resource_group" {
  description = "Resource group that everything is in."
  value       = azurerm_resource_group.this.name
}

output "registry" {
  description = "The registry's name, for `az acr login --name`."
  value       = azurerm_container_registry.this.name
}

output "registry_server" {
  description = "The registry's server, with which image names begin."
  value       = azurerm_container_registry.this.login_server
}

output "url" {
  description = "Address of the CPU app."
  value       = one(module.cpu[*].url)
}

output "gpu_url" {
  description = "Address of the GPU app."
  value       = one(module.gpu[*].url)
}

output "functions_url" {
  description = "Address of the function app."
  value       = one(module.functions[*].url)
}

output "revisions" {
  description = "The newest revision of each container app, for a rollback."
  value       = merge({}, concat([for app in module.cpu : { cpu = app.revision }], [for app in module.gpu : { gpu = app.revision }])...)
}

output "log_workspace_id" {
  description = "The log workspace, for `az monitor log-analytics query --workspace`."
  value       = azurerm_log_analytics_workspace.this.workspace_id
}
