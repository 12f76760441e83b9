# The function app on Container Apps (`kind=functionapp`): the Functions host with the program as its custom handler, scaling from zero, without a
# Premium plan. The image is azure/Dockerfile's. By azapi, because azurerm's container app has no kind.
#
# The CPU app of terraform/azure does the same without a host between caller and program. Take this where triggers and tools of Functions are wanted.

resource "azurerm_resource_group" "this" {
  name     = "reranker-functions"
  location = var.location
}

resource "azurerm_user_assigned_identity" "this" {
  name                = "reranker"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
}

resource "azurerm_role_assignment" "pull" {
  scope                = var.registry.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.this.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_container_app_environment" "this" {
  name                = "reranker-functions"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location

  workload_profile {
    name                  = "Consumption"
    workload_profile_type = "Consumption"
  }
}

resource "azapi_resource" "function_app" {
  type      = "Microsoft.App/containerApps@2025-07-01"
  name      = "reranker-functions"
  parent_id = azurerm_resource_group.this.id
  location  = azurerm_resource_group.this.location

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.this.id]
  }

  body = {
    kind = "functionapp"
    properties = {
      environmentId       = azurerm_container_app_environment.this.id
      workloadProfileName = "Consumption"
      configuration = {
        activeRevisionsMode = "Single"
        registries          = [{ server = var.registry.server, identity = azurerm_user_assigned_identity.this.id }]
        # The Functions host listens here; it gives the program a port of its own.
        ingress = { external = true, targetPort = 80, transport = "auto", allowInsecure = false }
      }
      template = {
        containers = [{
          name      = "reranker"
          image     = "${var.registry.server}/${var.image}"
          resources = { cpu = 4, memory = "8Gi" }
          env = [
            { name = "FUNCTIONS_WORKER_RUNTIME", value = "custom" },
            # HTTP functions keep nothing, so the host needs no storage; it keeps its own keys in files.
            { name = "AzureWebJobsSecretStorageType", value = "files" },
            { name = "API_KEYS", secretRef = "api-keys" },
            { name = "REQUEST_TIMEOUT_S", value = "220" },
          ]
        }]
        scale = { minReplicas = 0, maxReplicas = 10 }
      }
    }
  }

  # Not in the plan, and not in what Azure gives back.
  sensitive_body = {
    properties = { configuration = { secrets = [{ name = "api-keys", value = join(",", var.api_keys) }] } }
  }

  response_export_values = ["properties.configuration.ingress.fqdn"]

  depends_on = [azurerm_role_assignment.pull]
}

output "url" {
  description = "URL for clients with an API key."
  value       = "https://${azapi_resource.function_app.output.properties.configuration.ingress.fqdn}"
}
