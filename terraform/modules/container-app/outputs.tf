output "url" {
  description = "Address of the app."
  value       = "https://${azurerm_container_app.this.ingress[0].fqdn}"
}

output "id" {
  description = "The app's resource id."
  value       = azurerm_container_app.this.id
}

output "revision" {
  description = "The newest revision, for a rollback."
  value       = azurerm_container_app.this.latest_revision_name
}

output "environment_id" {
  description = "The environment's resource id."
  value       = local.environment_id
}

output "static_ip_address" {
  description = "Address of a closed environment in its subnet, for a private DNS zone; null with a GPU."
  value       = one(azurerm_container_app_environment.this[*].static_ip_address)
}

output "default_domain" {
  description = "Domain of the environment, for a private DNS zone; null with a GPU."
  value       = one(azurerm_container_app_environment.this[*].default_domain)
}
