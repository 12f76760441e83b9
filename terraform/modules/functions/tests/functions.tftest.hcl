# The function app as it is planned, without Azure.

mock_provider "azurerm" {
  override_during = plan

  mock_resource "azurerm_user_assigned_identity" {
    defaults = {
      id           = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/functions"
      client_id    = "00000000-0000-0000-0000-00000000000c"
      principal_id = "00000000-0000-0000-0000-00000000000d"
    }
  }
  mock_resource "azurerm_storage_account" {
    defaults = {
      id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.Storage/storageAccounts/reranker"
    }
  }
  mock_resource "azurerm_application_insights" {
    defaults = {
      id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.Insights/components/reranker"
    }
  }
  mock_resource "azurerm_linux_function_app" {
    defaults = {
      default_hostname = "reranker-functions.azurewebsites.net"
    }
  }
}

variables {
  name                       = "reranker"
  suffix                     = "abc123"
  resource_group_name        = "reranker-rg"
  location                   = "westeurope"
  registry                   = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ContainerRegistry/registries/reranker", server = "reranker.azurecr.io" }
  image                      = { repository = "reranker-functions", tag = "1.0.0" }
  log_analytics_workspace_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.OperationalInsights/workspaces/logs"
  api_keys                   = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]
}

run "its_address" {
  command = plan

  assert {
    condition     = output.url == "https://reranker-functions.azurewebsites.net"
    error_message = "Its address is an output."
  }
}

run "what_azure_would_make_by_itself_is_ours_to_destroy" {
  command = plan

  assert {
    condition     = azurerm_monitor_action_group.smart_detection.name == "Application Insights Smart Detection"
    error_message = "Application Insights makes a group of this name where it finds none, and the resource group then can't be destroyed."
  }
}

run "the_image_is_the_registrys_and_pulled_by_the_identity" {
  command = plan

  assert {
    condition = (
      one(azurerm_linux_function_app.this.site_config[0].application_stack[0].docker).registry_url == "https://reranker.azurecr.io"
      && one(azurerm_linux_function_app.this.site_config[0].application_stack[0].docker).image_name == "reranker-functions"
      && one(azurerm_linux_function_app.this.site_config[0].application_stack[0].docker).image_tag == "1.0.0"
      && one(azurerm_linux_function_app.this.site_config[0].application_stack[0].docker).registry_password == null
    )
    error_message = "The image comes from our registry, without a password."
  }
  assert {
    condition = (
      azurerm_linux_function_app.this.site_config[0].container_registry_use_managed_identity
      && azurerm_linux_function_app.this.site_config[0].container_registry_managed_identity_client_id == azurerm_user_assigned_identity.this.client_id
      && one(azurerm_linux_function_app.this.identity).type == "UserAssigned"
    )
    error_message = "It is pulled as the function app's own identity."
  }
}

run "the_host_runs_the_program_as_its_custom_handler" {
  command = plan

  assert {
    condition     = azurerm_linux_function_app.this.app_settings["FUNCTIONS_WORKER_RUNTIME"] == "custom" && azurerm_linux_function_app.this.functions_extension_version == "~4"
    error_message = "Custom handlers are this worker runtime of the host's version 4."
  }
  assert {
    condition     = !contains(keys(azurerm_linux_function_app.this.app_settings), "PORT") && !contains(keys(azurerm_linux_function_app.this.app_settings), "WEBSITES_PORT")
    error_message = "The host listens for App Service, and tells the program a port of its own."
  }
  assert {
    condition     = tonumber(azurerm_linux_function_app.this.app_settings["REQUEST_TIMEOUT_S"]) < 230
    error_message = "The program answers before App Service's front gives up."
  }
  assert {
    condition     = azurerm_linux_function_app.this.site_config[0].health_check_path == "/ready"
    error_message = "Requests go to instances that score."
  }
}

run "storage_is_read_as_the_identity" {
  command = plan

  assert {
    condition = (
      !azurerm_storage_account.this.shared_access_key_enabled
      && !azurerm_storage_account.this.allow_nested_items_to_be_public
      && azurerm_storage_account.this.min_tls_version == "TLS1_2"
    )
    error_message = "The storage account has no keys, and shows nothing to the public."
  }
  assert {
    condition = (
      azurerm_linux_function_app.this.storage_uses_managed_identity
      && azurerm_linux_function_app.this.content_share_force_disabled
      && azurerm_linux_function_app.this.storage_account_access_key == null
      && azurerm_linux_function_app.this.app_settings["AzureWebJobsStorage__credential"] == "managedidentity"
      && azurerm_linux_function_app.this.app_settings["AzureWebJobsStorage__clientId"] == azurerm_user_assigned_identity.this.client_id
    )
    error_message = "The host uses the identity, and no file share."
  }
}

run "the_identity_has_three_roles_each_on_one_resource" {
  command = plan

  assert {
    condition = { for key, assignment in azurerm_role_assignment.this : key => assignment.role_definition_name } == {
      pull      = "AcrPull"
      host      = "Storage Blob Data Owner"
      telemetry = "Monitoring Metrics Publisher"
    }
    error_message = "Pull, keep the host's blobs, send telemetry."
  }
  assert {
    condition = (
      azurerm_role_assignment.this["pull"].scope == var.registry.id
      && azurerm_role_assignment.this["host"].scope == azurerm_storage_account.this.id
      && azurerm_role_assignment.this["telemetry"].scope == azurerm_application_insights.this.id
    )
    error_message = "No role reaches further than its resource."
  }
}

run "nothing_is_deployed_or_called_in_the_open" {
  command = plan

  assert {
    condition = (
      azurerm_linux_function_app.this.https_only
      && azurerm_linux_function_app.this.site_config[0].minimum_tls_version == "1.2"
      && azurerm_linux_function_app.this.site_config[0].ftps_state == "Disabled"
      && !azurerm_linux_function_app.this.ftp_publish_basic_authentication_enabled
      && !azurerm_linux_function_app.this.webdeploy_publish_basic_authentication_enabled
      && !azurerm_application_insights.this.local_authentication_enabled
    )
    error_message = "HTTPS alone, and no passwords."
  }
}

run "keys_are_an_app_setting" {
  command = plan

  assert {
    condition     = azurerm_linux_function_app.this.app_settings["API_KEYS"] == join(",", var.api_keys)
    error_message = "The program checks the keys, as everywhere."
  }
}

run "keys_may_stay_in_a_key_vault" {
  command = plan

  variables {
    api_keys = []
    api_keys_secret = {
      uri         = "https://keys.vault.azure.net/secrets/reranker"
      resource_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/keys/providers/Microsoft.KeyVault/vaults/keys/secrets/reranker"
    }
  }

  assert {
    condition = (
      azurerm_linux_function_app.this.app_settings["API_KEYS"] == "@Microsoft.KeyVault(SecretUri=https://keys.vault.azure.net/secrets/reranker)"
      && azurerm_linux_function_app.this.key_vault_reference_identity_id == azurerm_user_assigned_identity.this.id
      && azurerm_role_assignment.this["keys"].scope == var.api_keys_secret.resource_id
    )
    error_message = "App Service reads the vault's secret as the identity."
  }
}

run "address_ranges_shut_out_all_others" {
  command = plan

  variables {
    allowed_ip_ranges = ["203.0.113.0/24"]
  }

  assert {
    condition = (
      azurerm_linux_function_app.this.site_config[0].ip_restriction_default_action == "Deny"
      && one(azurerm_linux_function_app.this.site_config[0].ip_restriction).ip_address == "203.0.113.0/24"
    )
    error_message = "Who is not named is refused."
  }
}

run "the_plan_is_a_premium_plan_with_a_limit" {
  command = plan

  variables {
    plan = { sku = "EP2", max_instances = 5 }
  }

  assert {
    condition = (
      azurerm_service_plan.this.sku_name == "EP2" && azurerm_service_plan.this.os_type == "Linux"
      && azurerm_service_plan.this.maximum_elastic_worker_count == 5
      && azurerm_linux_function_app.this.site_config[0].app_scale_limit == 5
      && azurerm_linux_function_app.this.site_config[0].elastic_instance_minimum == 1
    )
    error_message = "From one instance, always warm, to five."
  }
}

run "alerts_go_where_they_are_asked_to" {
  command = plan

  variables {
    alerts                = true
    alert_action_group_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.Insights/actionGroups/alerts"
  }

  assert {
    condition     = { for name, alert in azurerm_monitor_metric_alert.this : name => alert.criteria[0].metric_name } == { functions-errors = "Http5xx", functions-unhealthy = "HealthCheckStatus" }
    error_message = "Failures, and instances that do not get ready."
  }
}

run "no_alerts_unasked" {
  command = plan

  assert {
    condition     = length(azurerm_monitor_metric_alert.this) == 0
    error_message = "An alert that goes nowhere is none."
  }
}
