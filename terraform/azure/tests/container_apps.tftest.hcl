# The container apps as they are planned, without Azure.

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
    condition     = length(azurerm_container_app.this) == 0 && length(azurerm_container_app_environment.cpu) == 0
    error_message = "Without an image there is nothing to run."
  }
  assert {
    condition     = output.url == null && output.gpu_url == null && output.functions_url == null
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
    condition     = keys(azurerm_container_app.this) == ["cpu"]
    error_message = "A GPU and a Premium plan cost money; they must be asked for."
  }
  assert {
    condition = (
      length(azapi_resource.gpu_environment) == 0 && length(azurerm_linux_function_app.this) == 0
      && length(azurerm_service_plan.functions) == 0 && length(azurerm_storage_account.functions) == 0
    )
    error_message = "Nothing of the GPU app and the function app may be left over."
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
  assert {
    condition = (
      one(azurerm_container_app.this["cpu"].identity).type == "UserAssigned"
      && one(azurerm_container_app.this["cpu"].registry).identity == azurerm_user_assigned_identity.apps.id
      && one(azurerm_container_app.this["cpu"].registry).server == "reranker.azurecr.io"
      && one(azurerm_container_app.this["cpu"].registry).password_secret_name == null
    )
    error_message = "The app pulls as its identity."
  }
}

run "the_cpu_app_scales_to_zero_and_by_requests" {
  command = plan

  assert {
    condition = (
      azurerm_container_app.this["cpu"].template[0].min_replicas == 0
      && azurerm_container_app.this["cpu"].template[0].max_replicas == 10
      && azurerm_container_app.this["cpu"].template[0].http_scale_rule[0].concurrent_requests == "4"
    )
    error_message = "From none to ten replicas, one for every four requests at a time."
  }
  assert {
    condition = (
      azurerm_container_app.this["cpu"].workload_profile_name == "Consumption"
      && one(azurerm_container_app_environment.cpu[0].workload_profile).workload_profile_type == "Consumption"
      && azurerm_container_app.this["cpu"].template[0].container[0].cpu == 4
      && azurerm_container_app.this["cpu"].template[0].container[0].memory == "8Gi"
    )
    error_message = "The most that the Consumption profile sells: 4 vCPUs, 8 GiB."
  }
  assert {
    condition     = azurerm_container_app.this["cpu"].template[0].container[0].image == "reranker.azurecr.io/${var.image}"
    error_message = "The image is the registry's, by digest."
  }
}

run "each_probe_is_explicit_and_there_once" {
  command = plan

  assert {
    condition = alltrue([
      for probes in [
        azurerm_container_app.this["cpu"].template[0].container[0].startup_probe,
        azurerm_container_app.this["cpu"].template[0].container[0].liveness_probe,
        azurerm_container_app.this["cpu"].template[0].container[0].readiness_probe,
      ] : length(probes) == 1 && probes[0].transport == "HTTP" && probes[0].port == 8000
    ])
    error_message = "One HTTP probe of each kind, on the program's port."
  }
  assert {
    condition = (
      azurerm_container_app.this["cpu"].template[0].container[0].startup_probe[0].path == "/live"
      && azurerm_container_app.this["cpu"].template[0].container[0].liveness_probe[0].path == "/live"
      && azurerm_container_app.this["cpu"].template[0].container[0].readiness_probe[0].path == "/ready"
    )
    error_message = "Loading a model may keep requests away, and must not get the replica killed."
  }
  assert {
    condition = alltrue([
      for probe in [
        azurerm_container_app.this["cpu"].template[0].container[0].startup_probe[0],
        azurerm_container_app.this["cpu"].template[0].container[0].liveness_probe[0],
        azurerm_container_app.this["cpu"].template[0].container[0].readiness_probe[0],
      ] : probe.failure_count_threshold <= 10 && probe.interval_seconds <= 240 && probe.timeout <= 240
    ])
    error_message = "Azure's API takes thresholds up to 10 and times up to 240 seconds."
  }
}

run "keys_are_a_secret" {
  command = plan

  assert {
    condition = (
      one(azurerm_container_app.this["cpu"].secret).name == "api-keys"
      && one(azurerm_container_app.this["cpu"].secret).value == join(",", var.api_keys)
    )
    error_message = "The secret holds all keys, separated by commas."
  }
  assert {
    condition = one([
      for env in azurerm_container_app.this["cpu"].template[0].container[0].env : env if env.name == "API_KEYS"
    ]).secret_name == "api-keys"
    error_message = "API_KEYS comes from the secret."
  }
  assert {
    condition = alltrue([
      for env in azurerm_container_app.this["cpu"].template[0].container[0].env :
      env.value == null || alltrue([for key in var.api_keys : !strcontains(coalesce(env.value, "-"), key)])
    ])
    error_message = "No variable holds a key in the open."
  }
}

# A revision is made from the template, which has the secret's name and not its value.
run "other_keys_make_a_new_revision" {
  command = plan

  variables {
    api_keys = ["sha256:${sha256("old")}", "sha256:${sha256("new")}"]
  }

  assert {
    condition = one([
      for env in azurerm_container_app.this["cpu"].template[0].container[0].env : env if env.name == "API_KEYS_DIGEST"
    ]).value == substr(sha256(join(",", ["sha256:${sha256("old")}", "sha256:${sha256("new")}"])), 0, 12)
    error_message = "The template changes with the keys."
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
      one(azurerm_container_app.this["cpu"].secret).key_vault_secret_id == var.api_keys_secret.uri
      && one(azurerm_container_app.this["cpu"].secret).identity == azurerm_user_assigned_identity.apps.id
    )
    error_message = "The app reads the vault's secret as its identity."
  }
  assert {
    condition = (
      azurerm_role_assignment.apps_keys[0].scope == var.api_keys_secret.resource_id
      && azurerm_role_assignment.apps_keys[0].role_definition_name == "Key Vault Secrets User"
    )
    error_message = "The identity may read this one secret."
  }
}

run "without_keys_there_is_no_secret" {
  command = plan

  variables {
    api_keys        = []
    allow_anonymous = true
  }

  assert {
    condition = (
      length(azurerm_container_app.this["cpu"].secret) == 0
      && !contains([for env in azurerm_container_app.this["cpu"].template[0].container[0].env : env.name], "API_KEYS")
    )
    error_message = "An empty secret would be refused."
  }
}

run "the_program_answers_before_the_front_gives_up" {
  command = plan

  variables {
    environment   = { MAX_LENGTH = "1024" }
    otlp_endpoint = "http://collector:4318"
  }

  assert {
    condition = {
      for env in azurerm_container_app.this["cpu"].template[0].container[0].env : env.name => env.value if !startswith(env.name, "API_KEYS")
      } == {
      PORT                        = "8000"
      REQUEST_TIMEOUT_S           = "220"
      SHUTDOWN_GRACE_S            = "220"
      MAX_LENGTH                  = "1024"
      OTEL_EXPORTER_OTLP_ENDPOINT = "http://collector:4318"
    }
    error_message = "The program gets its port, its times, and what was asked for."
  }
  assert {
    condition     = azurerm_container_app.this["cpu"].template[0].termination_grace_period_seconds == 230
    error_message = "A replica that is stopped may finish what it has accepted."
  }
  assert {
    condition     = azurerm_container_app.this["cpu"].ingress[0].target_port == 8000 && !azurerm_container_app.this["cpu"].ingress[0].allow_insecure_connections
    error_message = "HTTPS outside, the program's port inside."
  }
}

run "ingress_is_external_or_internal" {
  command = plan

  variables {
    external          = false
    allowed_ip_ranges = ["203.0.113.0/24", "198.51.100.7/32"]
  }

  assert {
    condition     = !azurerm_container_app.this["cpu"].ingress[0].external_enabled
    error_message = "external = false keeps the internet out."
  }
  assert {
    condition = (
      [for rule in azurerm_container_app.this["cpu"].ingress[0].ip_security_restriction : rule.action] == ["Allow", "Allow"]
      && alltrue([for rule in azurerm_container_app.this["cpu"].ingress[0].ip_security_restriction : can(regex("^[a-z0-9-]+$", rule.name))])
    )
    error_message = "Each range is allowed, which shuts out all others, under a name that Azure takes."
  }
}

run "a_subnet_sees_an_app_that_the_internet_does_not" {
  command = plan

  variables {
    external  = false
    subnet_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/net/subnets/apps"
  }

  assert {
    condition = (
      azurerm_container_app_environment.cpu[0].internal_load_balancer_enabled
      && azurerm_container_app_environment.cpu[0].infrastructure_subnet_id == var.subnet_id
      && azurerm_container_app.this["cpu"].ingress[0].external_enabled
    )
    error_message = "The environment is closed to the internet, the app open to the network."
  }
}

run "traffic_can_be_split_between_revisions" {
  command = plan

  variables {
    revision_mode = "Multiple"
    traffic       = { latest = 10, "0000001" = 90 }
  }

  assert {
    condition     = azurerm_container_app.this["cpu"].revision_mode == "Multiple"
    error_message = "Two revisions need the mode Multiple."
  }
  assert {
    condition = {
      for weight in azurerm_container_app.this["cpu"].ingress[0].traffic_weight :
      weight.latest_revision ? "latest" : weight.revision_suffix => weight.percentage
    } == { latest = 10, "0000001" = 90 }
    error_message = "Each revision has its share."
  }
}

run "the_gpu_app_has_a_gpu" {
  command = plan

  variables {
    gpu_image = "reranker-gpu@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
  }

  assert {
    condition = one([
      for profile in azapi_resource.gpu_environment[0].body.properties.workloadProfiles : profile if profile.name == "gpu"
    ]) == { name = "gpu", workloadProfileType = "Consumption-GPU-NC8as-T4" }
    error_message = "A GPU profile has a name and a type; Azure refuses node counts."
  }
  assert {
    condition = (
      azapi_resource.gpu_environment[0].location == "swedencentral"
      && azurerm_container_app.this["gpu"].workload_profile_name == "gpu"
      && azurerm_container_app.this["gpu"].template[0].container[0].cpu == 8
      && azurerm_container_app.this["gpu"].template[0].container[0].memory == "56Gi"
      && azurerm_container_app.this["gpu"].template[0].min_replicas == 0
      && azurerm_container_app.this["gpu"].template[0].max_replicas == 1
    )
    error_message = "A T4's replica is the whole machine, and there is none while nobody calls."
  }
  assert {
    condition = one([
      for env in azurerm_container_app.this["gpu"].template[0].container[0].env : env.value if env.name == "DEVICE"
    ]) == "cuda"
    error_message = "A replica without a GPU must refuse to serve."
  }
  assert {
    condition     = !contains([for env in azurerm_container_app.this["cpu"].template[0].container[0].env : env.name], "DEVICE")
    error_message = "The CPU app needs no GPU."
  }
  assert {
    condition     = toset(keys(azurerm_monitor_diagnostic_setting.apps)) == toset(["cpu", "gpu"])
    error_message = "Both environments' logs are kept."
  }
}

run "an_a100_is_a_larger_machine" {
  command = plan

  variables {
    image     = null
    gpu_image = "reranker-gpu@sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
    gpu       = { profile = "Consumption-GPU-NC24-A100", location = "westus3" }
  }

  assert {
    condition = (
      keys(azurerm_container_app.this) == ["gpu"]
      && azurerm_container_app.this["gpu"].template[0].container[0].cpu == 24
      && azurerm_container_app.this["gpu"].template[0].container[0].memory == "220Gi"
      && azapi_resource.gpu_environment[0].location == "westus3"
    )
    error_message = "The GPU app can be all there is."
  }
}

run "alerts_go_where_they_are_asked_to" {
  command = plan

  variables {
    alert_email = "ops@example.org"
  }

  assert {
    condition     = toset(keys(azurerm_monitor_metric_alert.apps)) == toset(["cpu-errors", "cpu-restarts", "cpu-slow"])
    error_message = "Errors, restarts and slow answers of the CPU app."
  }
  assert {
    condition     = one(azurerm_monitor_action_group.this[0].email_receiver).email_address == "ops@example.org"
    error_message = "The alerts are mailed."
  }
}

run "there_are_no_alerts_without_an_address" {
  command = plan

  assert {
    condition     = length(azurerm_monitor_metric_alert.apps) == 0 && length(azurerm_monitor_action_group.this) == 0
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
        azurerm_log_analytics_workspace.this.tags, azurerm_container_app_environment.cpu[0].tags, azurerm_container_app.this["cpu"].tags,
      ] : tags == tomap({ team = "search", application = "serverless-reranker" })
    ])
    error_message = "Each resource has its tags."
  }
}
