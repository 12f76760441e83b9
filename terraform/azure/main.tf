# What all apps share: names, the registry and who may pull from it, and where logs go.

resource "random_string" "suffix" {
  length  = 6
  upper   = false
  special = false
}

locals {
  tags = merge(var.tags, { application = "serverless-reranker" })
  # Registries and storage accounts have names of their own in the whole of Azure, without hyphens.
  global_name = "${replace(var.name, "-", "")}${random_string.suffix.result}"
}

resource "azurerm_resource_group" "this" {
  name     = "${var.name}-rg"
  location = var.location
  tags     = local.tags
}

resource "azurerm_container_registry" "this" {
  #checkov:skip=CKV_AZURE_139:Images are pushed from where they are built and pulled by the apps; a closed network needs the Premium tier and private endpoints.
  #checkov:skip=CKV_AZURE_163:Scanning is a plan of Defender for Cloud, which is bought for a subscription and not for a registry.
  #checkov:skip=CKV_AZURE_164:Content trust is retired; the apps name images by digest, which is what they then run.
  #checkov:skip=CKV_AZURE_165:Geo-replication needs the Premium tier; this is one region.
  #checkov:skip=CKV_AZURE_166:Quarantine needs the Premium tier and somebody who releases images.
  #checkov:skip=CKV_AZURE_167:Deleting untagged images needs the Premium tier, and an image that is named by digest alone may be untagged.
  #checkov:skip=CKV_AZURE_233:Zone redundancy is on by itself where a region has it; the switch is one of the Premium tier.
  #checkov:skip=CKV_AZURE_237:Data endpoints of its own need the Premium tier.
  name                   = local.global_name
  resource_group_name    = azurerm_resource_group.this.name
  location               = azurerm_resource_group.this.location
  sku                    = var.registry_sku
  admin_enabled          = false
  anonymous_pull_enabled = false
  tags                   = local.tags
}

# The container apps pull and read their keys as this identity, which exists, with its roles, before they do.
resource "azurerm_user_assigned_identity" "apps" {
  name                = "${var.name}-apps"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

resource "azurerm_role_assignment" "apps_pull" {
  scope                = azurerm_container_registry.this.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.apps.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "apps_keys" {
  count = var.api_keys_secret == null ? 0 : 1

  scope                = var.api_keys_secret.resource_id
  role_definition_name = "Key Vault Secrets User"
  principal_id         = azurerm_user_assigned_identity.apps.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_log_analytics_workspace" "this" {
  name                = "${var.name}-logs"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  sku                 = "PerGB2018"
  retention_in_days   = var.log_retention_days
  daily_quota_gb      = var.log_daily_quota_gb
  # Nobody writes with a shared key: the environments' logs arrive by diagnostic settings.
  local_authentication_enabled = false
  tags                         = local.tags
}

resource "azurerm_monitor_action_group" "this" {
  count = var.alert_email == null ? 0 : 1

  name                = "${var.name}-alerts"
  resource_group_name = azurerm_resource_group.this.name
  short_name          = "reranker"
  tags                = local.tags

  email_receiver {
    name                    = "operators"
    email_address           = var.alert_email
    use_common_alert_schema = true
  }
}

# Once the day's quota is reached, nothing is logged until the next day, and nobody would be told.
resource "azurerm_monitor_scheduled_query_rules_alert_v2" "log_quota" {
  count = var.alert_email == null || var.log_daily_quota_gb == -1 ? 0 : 1

  name                 = "${var.name}-log-quota"
  resource_group_name  = azurerm_resource_group.this.name
  location             = azurerm_resource_group.this.location
  description          = "The day's quota of logs is used up. Nothing is logged until the next day. Raise log_daily_quota_gb, or log less."
  severity             = 2
  scopes               = [azurerm_log_analytics_workspace.this.id]
  evaluation_frequency = "PT15M"
  window_duration      = "PT15M"
  tags                 = local.tags

  criteria {
    query                   = "_LogOperation | where Category =~ 'Ingestion' | where Detail contains 'OverQuota'"
    time_aggregation_method = "Count"
    operator                = "GreaterThan"
    threshold               = 0
  }

  action {
    action_groups = [azurerm_monitor_action_group.this[0].id]
  }
}

# The CPU app and the GPU app: the same app twice, in environments of their own.

module "cpu" {
  source = "../modules/container-app"
  count  = var.image == null ? 0 : 1

  name          = "${var.name}-cpu"
  location      = azurerm_resource_group.this.location
  image         = var.image
  subnet_id     = var.subnet_id
  size          = var.cpu
  scale         = var.scale
  revision_mode = var.revision_mode
  traffic       = var.traffic

  resource_group_name        = azurerm_resource_group.this.name
  tags                       = local.tags
  registry_server            = azurerm_container_registry.this.login_server
  identity_id                = azurerm_user_assigned_identity.apps.id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  alerts                     = var.alert_email != null
  alert_action_group_id      = one(azurerm_monitor_action_group.this[*].id)

  api_keys                = var.api_keys
  api_keys_secret         = var.api_keys_secret
  allow_anonymous         = var.allow_anonymous
  external                = var.external
  allowed_ip_ranges       = var.allowed_ip_ranges
  environment             = var.environment
  request_timeout_seconds = var.request_timeout_seconds
  otlp_endpoint           = var.otlp_endpoint

  depends_on = [
    azurerm_role_assignment.apps_pull,
    azurerm_role_assignment.apps_keys,
  ]
}

module "gpu" {
  source = "../modules/container-app"
  count  = var.gpu_image == null ? 0 : 1

  name              = "${var.name}-gpu"
  location          = var.gpu.location
  resource_group_id = azurerm_resource_group.this.id
  image             = var.gpu_image
  gpu_profile       = var.gpu.profile
  scale             = var.gpu

  resource_group_name        = azurerm_resource_group.this.name
  tags                       = local.tags
  registry_server            = azurerm_container_registry.this.login_server
  identity_id                = azurerm_user_assigned_identity.apps.id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  alerts                     = var.alert_email != null
  alert_action_group_id      = one(azurerm_monitor_action_group.this[*].id)

  api_keys                = var.api_keys
  api_keys_secret         = var.api_keys_secret
  allow_anonymous         = var.allow_anonymous
  external                = var.external
  allowed_ip_ranges       = var.allowed_ip_ranges
  environment             = var.environment
  request_timeout_seconds = var.request_timeout_seconds
  otlp_endpoint           = var.otlp_endpoint

  depends_on = [
    azurerm_role_assignment.apps_pull,
    azurerm_role_assignment.apps_keys,
  ]
}

module "functions" {
  source = "../modules/functions"
  count  = var.functions_image == null ? 0 : 1

  name                       = var.name
  suffix                     = random_string.suffix.result
  resource_group_name        = azurerm_resource_group.this.name
  location                   = azurerm_resource_group.this.location
  tags                       = local.tags
  registry                   = { id = azurerm_container_registry.this.id, server = azurerm_container_registry.this.login_server }
  image                      = var.functions_image
  plan                       = var.functions
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id
  alerts                     = var.alert_email != null
  alert_action_group_id      = one(azurerm_monitor_action_group.this[*].id)

  api_keys                = var.api_keys
  api_keys_secret         = var.api_keys_secret
  allow_anonymous         = var.allow_anonymous
  allowed_ip_ranges       = var.allowed_ip_ranges
  environment             = var.environment
  request_timeout_seconds = var.request_timeout_seconds
  otlp_endpoint           = var.otlp_endpoint
}

# What an operator looks at first, from the container apps' log. suites/terraform/dashboards.py holds its fields to what the program writes.
resource "azurerm_application_insights_workbook" "this" {
  count = var.image == null && var.gpu_image == null ? 0 : 1

  # Azure wants a UUID for a name: the same one at every apply.
  name                = uuidv5("url", "${azurerm_resource_group.this.id}/reranker")
  display_name        = var.name
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  source_id           = lower(azurerm_log_analytics_workspace.this.id)
  data_json           = file("${path.module}/workbook.json")
  tags                = local.tags
}
