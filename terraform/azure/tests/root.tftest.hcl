# What this root adds to the modules, which have tests of their own.

mock_provider "azurerm" {
  override_during = plan

  mock_resource "azurerm_container_registry" {
    defaults = {
      id           = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ContainerRegistry/registries/reranker"
      login_server = "reranker.azurecr.io"
    }
  }
  mock_resource "azurerm_user_assigned_identity" {
    defaults = {
      id           = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/apps"
      client_id    = "00000000-0000-0000-0000-00000000000c"
      principal_id = "00000000-0000-0000-0000-00000000000d"
    }
  }
}
mock_provider "azapi" {}
mock_provider "random" {}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
  image           = "reranker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  api_keys        = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "a-second-key-for-the-rotation"]
}

run "the_registry_comes_before_there_is_an_image" {
  command = plan

  variables {
    image = null
  }

  assert {
    condition     = output.url == null && output.gpu_url == null && output.functions_url == null && output.revisions == {}
    error_message = "What is not there has no address."
  }
  assert {
    condition     = output.registry_server == "reranker.azurecr.io"
    error_message = "The first apply must say where to push to."
  }
}

run "only_the_cpu_app_runs_unasked" {
  command = plan

  assert {
    condition     = length(module.cpu) == 1 && length(module.gpu) == 0 && length(module.functions) == 0
    error_message = "A GPU and a Premium plan cost money; they must be asked for."
  }
  assert {
    condition     = jsondecode(azurerm_application_insights_workbook.this[0].data_json).version == "Notebook/1.0"
    error_message = "The workbook comes with the app."
  }
}

run "nobody_has_a_password_for_the_registry" {
  command = plan

  assert {
    condition     = !azurerm_container_registry.this.admin_enabled && !azurerm_container_registry.this.anonymous_pull_enabled
    error_message = "The admin user and anonymous pulls are off."
  }
  assert {
    condition = (
      azurerm_role_assignment.apps_pull.role_definition_name == "AcrPull"
      && azurerm_role_assignment.apps_pull.scope == azurerm_container_registry.this.id
    )
    error_message = "The apps' identity may pull from this registry, and no more."
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
      azurerm_role_assignment.apps_keys[0].scope == var.api_keys_secret.resource_id
      && azurerm_role_assignment.apps_keys[0].role_definition_name == "Key Vault Secrets User"
    )
    error_message = "The identity may read this one secret."
  }
}

run "all_three_beside_each_other" {
  command = plan

  variables {
    gpu_image       = "reranker-gpu@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
    functions_image = { repository = "reranker-functions", tag = "1.0.0" }
    alert_email     = "ops@example.org"
  }

  assert {
    condition     = toset(keys(output.revisions)) == toset(["cpu", "gpu"]) && length(module.functions) == 1
    error_message = "Each can be asked for."
  }
  assert {
    condition     = one(azurerm_monitor_action_group.this[0].email_receiver).email_address == "ops@example.org"
    error_message = "The alerts are mailed."
  }
  assert {
    condition     = length(azurerm_monitor_scheduled_query_rules_alert_v2.log_quota) == 1
    error_message = "Somebody is told that nothing is logged any more."
  }
}

run "there_are_no_alerts_without_an_address" {
  command = plan

  assert {
    condition     = length(azurerm_monitor_action_group.this) == 0
    error_message = "An alert that goes nowhere is none."
  }
}

run "everything_is_tagged" {
  command = plan

  variables {
    tags = { team = "search" }
  }

  assert {
    condition = alltrue([
      for tags in [
        azurerm_resource_group.this.tags, azurerm_container_registry.this.tags, azurerm_user_assigned_identity.apps.tags,
        azurerm_log_analytics_workspace.this.tags,
      ] : tags == tomap({ team = "search", application = "serverless-reranker" })
    ])
    error_message = "Each resource has its tags."
  }
}

run "names_and_places_that_azure_does_not_know" {
  command = plan

  variables {
    subscription_id    = "production"
    name               = "1-reranker"
    location           = "West Europe"
    registry_sku       = "Free"
    log_retention_days = 7
    log_daily_quota_gb = 0
    alert_email        = "operators"
    tags               = { for number in range(50) : "tag${number}" => "x" }
  }

  expect_failures = [
    var.subscription_id,
    var.name,
    var.location,
    var.registry_sku,
    var.log_retention_days,
    var.log_daily_quota_gb,
    var.alert_email,
    var.tags,
  ]
}

run "a_name_too_long_for_what_is_appended" {
  command = plan

  variables {
    name = "reranker-of-the-search"
  }

  expect_failures = [var.name]
}
