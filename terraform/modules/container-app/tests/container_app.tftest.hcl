# A container app as it is planned, without Azure.

mock_provider "azurerm" {
  override_during = plan
}
mock_provider "azapi" {}

variables {
  name                       = "reranker-cpu"
  resource_group_name        = "reranker-rg"
  location                   = "westeurope"
  registry_server            = "reranker.azurecr.io"
  identity_id                = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/apps"
  log_analytics_workspace_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.OperationalInsights/workspaces/logs"
  image                      = "reranker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  api_keys                   = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "a-second-key-for-the-rotation"]
}

run "the_image_is_pulled_as_the_identity" {
  command = plan

  assert {
    condition = (
      one(azurerm_container_app.this.identity).type == "UserAssigned"
      && one(azurerm_container_app.this.registry).identity == var.identity_id
      && one(azurerm_container_app.this.registry).server == "reranker.azurecr.io"
      && one(azurerm_container_app.this.registry).password_secret_name == null
    )
    error_message = "The app pulls as its identity."
  }
}

run "the_cpu_app_scales_to_zero_and_by_requests" {
  command = plan

  assert {
    condition = (
      azurerm_container_app.this.template[0].min_replicas == 0
      && azurerm_container_app.this.template[0].max_replicas == 10
      && azurerm_container_app.this.template[0].http_scale_rule[0].concurrent_requests == "4"
    )
    error_message = "From none to ten replicas, one for every four requests at a time."
  }
  assert {
    condition = (
      azurerm_container_app.this.workload_profile_name == "Consumption"
      && one(azurerm_container_app_environment.this[0].workload_profile).workload_profile_type == "Consumption"
      && azurerm_container_app.this.template[0].container[0].cpu == 4
      && azurerm_container_app.this.template[0].container[0].memory == "8Gi"
    )
    error_message = "The most that the Consumption profile sells: 4 vCPUs, 8 GiB."
  }
  assert {
    condition     = azurerm_container_app.this.template[0].container[0].image == "reranker.azurecr.io/${var.image}"
    error_message = "The image is the registry's, by digest."
  }
}

run "each_probe_is_explicit_and_there_once" {
  command = plan

  assert {
    condition = alltrue([
      for probes in [
        azurerm_container_app.this.template[0].container[0].startup_probe,
        azurerm_container_app.this.template[0].container[0].liveness_probe,
        azurerm_container_app.this.template[0].container[0].readiness_probe,
      ] : length(probes) == 1 && probes[0].transport == "HTTP" && probes[0].port == 8000
    ])
    error_message = "One HTTP probe of each kind, on the program's port."
  }
  assert {
    condition = (
      azurerm_container_app.this.template[0].container[0].startup_probe[0].path == "/live"
      && azurerm_container_app.this.template[0].container[0].liveness_probe[0].path == "/live"
      && azurerm_container_app.this.template[0].container[0].readiness_probe[0].path == "/ready"
    )
    error_message = "Loading a model may keep requests away, and must not get the replica killed."
  }
  assert {
    condition = alltrue([
      for probe in [
        azurerm_container_app.this.template[0].container[0].startup_probe[0],
        azurerm_container_app.this.template[0].container[0].liveness_probe[0],
        azurerm_container_app.this.template[0].container[0].readiness_probe[0],
      ] : probe.failure_count_threshold <= 10 && probe.interval_seconds <= 240 && probe.timeout <= 240
    ])
    error_message = "Azure's API takes thresholds up to 10 and times up to 240 seconds."
  }
}

run "keys_are_a_secret" {
  command = plan

  assert {
    condition = (
      one(azurerm_container_app.this.secret).name == "api-keys"
      && one(azurerm_container_app.this.secret).value == join(",", var.api_keys)
    )
    error_message = "The secret holds all keys, separated by commas."
  }
  assert {
    condition = one([
      for env in azurerm_container_app.this.template[0].container[0].env : env if env.name == "API_KEYS"
    ]).secret_name == "api-keys"
    error_message = "API_KEYS comes from the secret."
  }
  assert {
    condition = alltrue([
      for env in azurerm_container_app.this.template[0].container[0].env :
      env.value == null || alltrue([for key in var.api_keys : !strcontains(coalesce(env.value, "-"), key)])
    ])
    error_message = "No variable holds a key in the open."
  }
}

run "other_keys_make_a_new_revision" {
  command = plan

  variables {
    api_keys = ["sha256:${sha256("old")}", "sha256:${sha256("new")}"]
  }

  assert {
    condition = one([
      for env in azurerm_container_app.this.template[0].container[0].env : env if env.name == "API_KEYS_DIGEST"
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
      one(azurerm_container_app.this.secret).key_vault_secret_id == var.api_keys_secret.uri
      && one(azurerm_container_app.this.secret).identity == var.identity_id
    )
    error_message = "The app reads the vault's secret as its identity."
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
      length(azurerm_container_app.this.secret) == 0
      && !contains([for env in azurerm_container_app.this.template[0].container[0].env : env.name], "API_KEYS")
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
      for env in azurerm_container_app.this.template[0].container[0].env : env.name => env.value if !startswith(env.name, "API_KEYS")
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
    condition     = azurerm_container_app.this.template[0].termination_grace_period_seconds == 230
    error_message = "A replica that is stopped may finish what it has accepted."
  }
  assert {
    condition     = azurerm_container_app.this.ingress[0].target_port == 8000 && !azurerm_container_app.this.ingress[0].allow_insecure_connections
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
    condition     = !azurerm_container_app.this.ingress[0].external_enabled
    error_message = "external = false keeps the internet out."
  }
  assert {
    condition = (
      [for rule in azurerm_container_app.this.ingress[0].ip_security_restriction : rule.action] == ["Allow", "Allow"]
      && alltrue([for rule in azurerm_container_app.this.ingress[0].ip_security_restriction : can(regex("^[a-z0-9-]+$", rule.name))])
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
      azurerm_container_app_environment.this[0].internal_load_balancer_enabled
      && azurerm_container_app_environment.this[0].infrastructure_subnet_id == var.subnet_id
      && azurerm_container_app.this.ingress[0].external_enabled
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
    condition     = azurerm_container_app.this.revision_mode == "Multiple"
    error_message = "Two revisions need the mode Multiple."
  }
  assert {
    condition = {
      for weight in azurerm_container_app.this.ingress[0].traffic_weight :
      weight.latest_revision ? "latest" : weight.revision_suffix => weight.percentage
    } == { latest = 10, "0000001" = 90 }
    error_message = "Each revision has its share."
  }
}

run "the_gpu_app_has_a_gpu" {
  command = plan

  variables {
    location          = "swedencentral"
    resource_group_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg"
    gpu_profile       = "Consumption-GPU-NC8as-T4"
    scale             = { max_replicas = 1 }
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
      && azurerm_container_app.this.workload_profile_name == "gpu"
      && azurerm_container_app.this.template[0].container[0].cpu == 8
      && azurerm_container_app.this.template[0].container[0].memory == "56Gi"
      && azurerm_container_app.this.template[0].min_replicas == 0
      && azurerm_container_app.this.template[0].max_replicas == 1
    )
    error_message = "A T4's replica is the whole machine, and there is none while nobody calls."
  }
  assert {
    condition = one([
      for env in azurerm_container_app.this.template[0].container[0].env : env.value if env.name == "DEVICE"
    ]) == "cuda"
    error_message = "A replica without a GPU must refuse to serve."
  }
}

run "an_a100_is_a_larger_machine" {
  command = plan

  variables {
    location          = "swedencentral"
    resource_group_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg"
    gpu_profile       = "Consumption-GPU-NC24-A100"
    scale             = { max_replicas = 1 }
  }

  assert {
    condition = (
      azurerm_container_app.this.template[0].container[0].cpu == 24
      && azurerm_container_app.this.template[0].container[0].memory == "220Gi"
      && azapi_resource.gpu_environment[0].location == "swedencentral"
    )
    error_message = "An A100 comes with 24 cores."
  }
}

run "a_cpu_app_asks_for_no_gpu" {
  command = plan

  assert {
    condition     = !contains([for env in azurerm_container_app.this.template[0].container[0].env : env.name], "DEVICE") && length(azapi_resource.gpu_environment) == 0
    error_message = "The CPU app needs no GPU."
  }
}

run "alerts_go_where_they_are_asked_to" {
  command = plan

  variables {
    alerts                = true
    alert_action_group_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.Insights/actionGroups/alerts"
  }

  assert {
    condition     = toset(keys(azurerm_monitor_metric_alert.this)) == toset(["errors", "restarts", "slow", "full"])
    error_message = "Errors, restarts, slow answers, and no replica left to start."
  }
}

run "nothing_goes_nowhere" {
  command = plan

  variables {
    keep_logs                  = false
    log_analytics_workspace_id = null
  }

  assert {
    condition     = length(azurerm_monitor_metric_alert.this) == 0 && length(azurerm_monitor_diagnostic_setting.this) == 0
    error_message = "An alert or a log that goes nowhere is none."
  }
}
