# The function app: the Functions host with the program as its custom handler, on a Premium plan.
#
# Premium and not Functions on Container Apps: what scales to zero is there already, as the CPU app, without a host between caller and
# program. Who wants Functions wants what that one lacks, instances that are always warm and App Service's networking, and azurerm has
# this resource whole, so that each argument is checked.

resource "azurerm_user_assigned_identity" "this" {
  name                = "${var.name}-functions"
  resource_group_name = var.resource_group_name
  location            = var.location
  tags                = var.tags
}

locals {
  has_keys = nonsensitive(length(var.api_keys) > 0) || var.api_keys_secret != null

  program_environment = merge(
    var.environment,
    {
      REQUEST_TIMEOUT_S = tostring(var.request_timeout_seconds)
      # What a request may take, it may also take while the app is being stopped.
      SHUTDOWN_GRACE_S = tostring(var.request_timeout_seconds)
    },
    var.otlp_endpoint == null ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint },
  )

  identity = azurerm_user_assigned_identity.this

  # Everything that the function app's identity may do, and on what.
  roles = merge(
    {
      pull = { role = "AcrPull", scope = var.registry.id }
      # The host keeps its lease and its own keys in blobs, and takes ownership of them.
      host = { role = "Storage Blob Data Owner", scope = azurerm_storage_account.this.id }
      # To send telemetry without an ingestion key.
      telemetry = { role = "Monitoring Metrics Publisher", scope = azurerm_application_insights.this.id }
    },
    var.api_keys_secret == null ? {} : {
      keys = { role = "Key Vault Secrets User", scope = var.api_keys_secret.resource_id }
    },
  )
}

resource "azurerm_role_assignment" "this" {
  for_each = local.roles

  scope                = each.value.scope
  role_definition_name = each.value.role
  principal_id         = local.identity.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_storage_account" "this" {
  #checkov:skip=CKV_AZURE_33:The host of HTTP functions uses no queues.
  #checkov:skip=CKV_AZURE_35:The host comes from App Service's shared addresses, which no rule can name; there are no keys, and no public blobs.
  #checkov:skip=CKV_AZURE_59:As CKV_AZURE_35; a private endpoint needs a network, which is the operator's to plan.
  #checkov:skip=CKV_AZURE_206:It holds the host's lease and keys, which the host makes anew; three copies in one region are enough.
  #checkov:skip=CKV2_AZURE_1:The same data need no encryption key of the operator's own.
  #checkov:skip=CKV2_AZURE_33:As CKV_AZURE_59.
  name                = "${replace(var.name, "-", "")}${var.suffix}"
  resource_group_name = var.resource_group_name
  location            = var.location
  tags                = var.tags

  account_kind                     = "StorageV2"
  account_tier                     = "Standard"
  account_replication_type         = "LRS"
  min_tls_version                  = "TLS1_2"
  https_traffic_only_enabled       = true
  shared_access_key_enabled        = false
  default_to_oauth_authentication  = true
  local_user_enabled               = false
  allow_nested_items_to_be_public  = false
  cross_tenant_replication_enabled = false

  blob_properties {
    delete_retention_policy {
      days = 7
    }
    container_delete_retention_policy {
      days = 7
    }
  }
}

# Azure makes this group unasked where Application Insights finds none of the name. Nobody would then remove it, and a resource group with something
# left in it is not destroyed.
resource "azurerm_monitor_action_group" "smart_detection" {
  name                = "Application Insights Smart Detection"
  resource_group_name = var.resource_group_name
  short_name          = "SmartDetect"
  tags                = var.tags
}

resource "azurerm_application_insights" "this" {
  name                = "${var.name}-functions"
  resource_group_name = var.resource_group_name
  location            = var.location
  workspace_id        = var.log_analytics_workspace_id
  application_type    = "web"
  # Only identities with the role above may send.
  local_authentication_enabled = false
  tags                         = var.tags

  depends_on = [azurerm_monitor_action_group.smart_detection]
}

resource "azurerm_service_plan" "this" {
  #checkov:skip=CKV_AZURE_212:One warm instance is the least that Premium runs; functions.min_instances asks for more.
  #checkov:skip=CKV_AZURE_225:Zones need three instances around the clock.
  name                         = "${var.name}-functions"
  resource_group_name          = var.resource_group_name
  location                     = var.location
  os_type                      = "Linux"
  sku_name                     = var.plan.sku
  maximum_elastic_worker_count = var.plan.max_instances
  tags                         = var.tags
}

resource "azurerm_linux_function_app" "this" {
  #checkov:skip=CKV_AZURE_221:It is a public API, behind keys; allowed_ip_ranges narrows who reaches it.
  name                = "${var.name}-functions-${var.suffix}"
  resource_group_name = var.resource_group_name
  location            = var.location
  service_plan_id     = azurerm_service_plan.this.id
  tags                = var.tags

  functions_extension_version   = "~4"
  https_only                    = true
  public_network_access_enabled = true
  # No deployment by password: the image is all there is to deploy.
  ftp_publish_basic_authentication_enabled       = false
  webdeploy_publish_basic_authentication_enabled = false
  builtin_logging_enabled                        = false

  storage_account_name          = azurerm_storage_account.this.name
  storage_uses_managed_identity = true
  # The app is in the image. Azure Files would need the storage account's key.
  content_share_force_disabled = true

  key_vault_reference_identity_id = local.identity.id

  identity {
    type         = "UserAssigned"
    identity_ids = [local.identity.id]
  }

  app_settings = merge(
    local.program_environment,
    {
      FUNCTIONS_WORKER_RUNTIME            = "custom"
      WEBSITES_ENABLE_APP_SERVICE_STORAGE = "false"
      # With storage_uses_managed_identity alone the host would ask for an identity of the system's.
      AzureWebJobsStorage__credential = "managedidentity"
      AzureWebJobsStorage__clientId   = local.identity.client_id

      APPLICATIONINSIGHTS_AUTHENTICATION_STRING = "ClientId=${local.identity.client_id};Authorization=AAD"
    },
    local.has_keys ? {
      API_KEYS = var.api_keys_secret == null ? join(",", var.api_keys) : "@Microsoft.KeyVault(SecretUri=${var.api_keys_secret.uri})"
    } : {},
  )

  site_config {
    application_insights_connection_string        = azurerm_application_insights.this.connection_string
    container_registry_use_managed_identity       = true
    container_registry_managed_identity_client_id = local.identity.client_id

    elastic_instance_minimum  = var.plan.min_instances
    app_scale_limit           = var.plan.max_instances
    pre_warmed_instance_count = 1

    # An instance that does not score is left out; the host passes the probe on, which needs no key.
    health_check_path                 = "/ready"
    health_check_eviction_time_in_min = 5

    ftps_state              = "Disabled"
    http2_enabled           = true
    minimum_tls_version     = "1.2"
    scm_minimum_tls_version = "1.2"
    use_32_bit_worker       = false

    ip_restriction_default_action = length(var.allowed_ip_ranges) == 0 ? "Allow" : "Deny"

    dynamic "ip_restriction" {
      for_each = var.allowed_ip_ranges

      content {
        name       = "range-${ip_restriction.key}"
        action     = "Allow"
        priority   = 100 + ip_restriction.key
        ip_address = ip_restriction.value
      }
    }

    application_stack {
      docker {
        registry_url = "https://${var.registry.server}"
        image_name   = var.image.repository
        image_tag    = var.image.tag
      }
    }
  }

  depends_on = [azurerm_role_assignment.this]
}
