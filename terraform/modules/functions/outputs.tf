output "url" {
  description = "Address of the function app."
  value       = "https://${azurerm_linux_function_app.this.default_hostname}"
}
