# One app in an environment of its own, on CPUs or on GPUs.

locals {
  # Container Apps takes what it gets on this port, whatever image it is.
  port = 8000
  # What a request may take, it may also take while the app is being stopped, as far as Azure waits: 600 seconds at most.
  shutdown_grace_seconds = var.request_timeout_seconds

  on_gpu = var.gpu_profile != null
  # GPU profiles come as one machine for each replica.
  size = local.on_gpu ? {
    "Consumption-GPU-NC8as-T4"  = { vcpus = 8, memory_gib = 56 }
    "Consumption-GPU-NC24-A100" = { vcpus = 24, memory_gib = 220 }
  }[var.gpu_profile] : var.size

  gpu_profile_name = "gpu"
  environment_id   = local.on_gpu ? one(azapi_resource.gpu_environment[*].id) : one(azurerm_container_app_environment.this[*].id)

  has_keys = nonsensitive(length(var.api_keys) > 0) || var.api_keys_secret != null

  program_environment = merge(
    var.environment,
    {
      PORT              = tostring(local.port)
      REQUEST_TIMEOUT_S = tostring(var.request_timeout_seconds)
      SHUTDOWN_GRACE_S  = tostring(local.shutdown_grace_seconds)
    },
    # A replica that finds no GPU must not serve at a CPU's speed and a GPU's price.
    local.on_gpu ? { DEVICE = "cuda" } : {},
    var.otlp_endpoint == null ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint },
  )
}

resource "azurerm_container_app_environment" "this" {
  count = local.on_gpu ? 0 : 1

  name                = var.name
  resource_group_name = var.resource_group_name
  location            = var.location
  # By diagnostic settings, which need no shared key of the workspace.
  logs_destination               = "azure-monitor"
  infrastructure_subnet_id       = var.subnet_id
  internal_load_balancer_enabled = var.subnet_id == null ? null : !var.external
  tags                           = var.tags

  # Named, or the environment would be of the older kind, whose replicas have at most 2 vCPUs.
  workload_profile {
    name                  = "Consumption"
    workload_profile_type = "Consumption"
  }
}

# By azapi, because azurerm sends node counts with every profile, which Azure refuses for GPU profiles
# (hashicorp/terraform-provider-azurerm#31763). An environment of its own, because GPUs are sold in other regions than the rest may be
# in, and because azurerm would take a profile that it did not make out of an environment that it manages.
resource "azapi_resource" "gpu_environment" {
  count = local.on_gpu ? 1 : 0

  type      = "Microsoft.App/managedEnvironments@2025-07-01"
  name      = var.name
  parent_id = var.resource_group_id
  location  = var.location
  tags      = var.tags

  body = {
    properties = {
      appLogsConfiguration = { destination = "azure-monitor" }
      workloadProfiles = [
        { name = "Consumption", workloadProfileType = "Consumption" },
        { name = local.gpu_profile_name, workloadProfileType = var.gpu_profile },
      ]
    }
  }
}

resource "azurerm_monitor_diagnostic_setting" "this" {
  count = var.keep_logs ? 1 : 0

  name                       = "logs"
  target_resource_id         = local.environment_id
  log_analytics_workspace_id = var.log_analytics_workspace_id

  enabled_log {
    category = "ContainerAppConsoleLogs"
  }
  enabled_log {
    category = "ContainerAppSystemLogs"
  }
}

resource "azurerm_container_app" "this" {
  name                         = var.name
  resource_group_name          = var.resource_group_name
  container_app_environment_id = local.environment_id
  workload_profile_name        = local.on_gpu ? local.gpu_profile_name : "Consumption"
  revision_mode                = var.revision_mode
  max_inactive_revisions       = 10
  tags                         = var.tags

  identity {
    type         = "UserAssigned"
    identity_ids = [var.identity_id]
  }

  registry {
    server   = var.registry_server
    identity = var.identity_id
  }

  dynamic "secret" {
    for_each = local.has_keys ? ["api-keys"] : []

    content {
      name                = secret.value
      value               = var.api_keys_secret == null ? join(",", var.api_keys) : null
      key_vault_secret_id = try(var.api_keys_secret.uri, null)
      identity            = var.api_keys_secret == null ? null : var.identity_id
    }
  }

  ingress {
    # In an environment that is itself closed to the internet, "external" means the subnet's network.
    external_enabled           = var.external || (var.subnet_id != null && !local.on_gpu)
    allow_insecure_connections = false
    target_port                = local.port
    transport                  = "auto"

    dynamic "traffic_weight" {
      for_each = var.traffic

      content {
        latest_revision = traffic_weight.key == "latest"
        revision_suffix = traffic_weight.key == "latest" ? null : traffic_weight.key
        percentage      = traffic_weight.value
      }
    }

    dynamic "ip_security_restriction" {
      for_each = toset(var.allowed_ip_ranges)

      content {
        name             = "range-${replace(ip_security_restriction.value, "/[./]/", "-")}"
        action           = "Allow"
        ip_address_range = ip_security_restriction.value
      }
    }
  }

  template {
    min_replicas                     = var.scale.min_replicas
    max_replicas                     = var.scale.max_replicas
    cooldown_period_in_seconds       = var.scale.cooldown_seconds
    termination_grace_period_seconds = local.shutdown_grace_seconds + 10

    http_scale_rule {
      name                = "requests"
      concurrent_requests = tostring(var.scale.concurrent_requests)
    }

    container {
      name   = "reranker"
      image  = "${var.registry_server}/${var.image}"
      cpu    = local.size.vcpus
      memory = "${local.size.memory_gib}Gi"

      dynamic "env" {
        for_each = local.program_environment

        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = local.has_keys ? ["api-keys"] : []

        content {
          name        = "API_KEYS"
          secret_name = env.value
        }
      }

      # A changed secret makes no new revision and reaches no replica that runs; a changed setting does. This one says nothing of the keys
      # themselves, and the program does not read it.
      dynamic "env" {
        for_each = var.api_keys_secret == null && local.has_keys ? [nonsensitive(substr(sha256(join(",", var.api_keys)), 0, 12))] : []

        content {
          name  = "API_KEYS_DIGEST"
          value = env.value
        }
      }

      # Without these Azure would put in its own, by TCP. The port is bound before the model is loaded, so start-up is over quickly,
      # and a slow load can only keep requests away, never get the replica killed. Before it is bound the GPU app starts CUDA: 0.2 s on an
      # H100, and 30 s are allowed.
      startup_probe {
        transport               = "HTTP"
        path                    = "/live"
        port                    = local.port
        interval_seconds        = 3
        timeout                 = 3
        failure_count_threshold = 10
      }

      # Patient: while every core computes, an answer may take its time.
      liveness_probe {
        transport               = "HTTP"
        path                    = "/live"
        port                    = local.port
        interval_seconds        = 10
        timeout                 = 5
        failure_count_threshold = 6
      }

      readiness_probe {
        transport               = "HTTP"
        path                    = "/ready"
        port                    = local.port
        interval_seconds        = 3
        timeout                 = 3
        failure_count_threshold = 3
        success_count_threshold = 1
      }
    }
  }
}
