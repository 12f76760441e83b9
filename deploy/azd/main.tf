# azd wants a module to provision. There is nothing in this one: the hooks in azure.yaml run the commands that make runs, which know the order of
# registry, image and apps.
terraform {
  required_version = ">= 1.11.0, < 2.0.0"
}

variable "location" {
  description = "The azd environment's location."
  type        = string
}

output "AZURE_LOCATION" {
  description = "For the hooks."
  value       = var.location
}
