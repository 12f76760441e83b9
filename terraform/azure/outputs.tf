output "resource_group" {
  description = "Resource group that everything is in."
  value       = azurerm_resource_group.this.name
}

output "registry" {
  description = "The registry's name, for `az acr login --name`."
  value       = azurerm_container_registry.this.name
}

output "registry_server" {
  description = "What images' names begin with."
  value       = azurerm_container_registry.this.login_server
}

output "url" {
  description = "Address of the CPU app."
  value       = var.image == null ? null : "https://${azurerm_container_app.this["cpu"].ingress[0].fqdn}"
}

output "gpu_url" {
  description = "Address of the GPU app."
  value       = var.gpu_image == null ? null : "https://${azurerm_container_app.this["gpu"].ingress[0].fqdn}"
}

output "functions_url" {
  description = "Address of the function app."
  value       = local.functions_enabled ? "https://${one(azurerm_linux_function_app.this[*].default_hostname)}" : null
}

output "revisions" {
  description = "The newest revision of each container app, for a rollback."
  value       = { for kind, app in azurerm_container_app.this : kind => app.latest_revision_name }
}

output "log_workspace_id" {
  description = "The log workspace, for `az monitor log-analytics query --workspace`."
  value       = azurerm_log_analytics_workspace.this.workspace_id
}
