# The CPU app and the GPU app: the same app twice, in environments of their own.

locals {
  # Container Apps takes what it gets on this port, whatever image it is.
  port = 8000
  # What a request may take, it may also take while the app is being stopped, as far as Azure waits: 600 seconds at most.
  shutdown_grace_seconds = var.request_timeout_seconds

  # GPU profiles come as one machine for each replica.
  gpu_sizes = {
    "Consumption-GPU-NC8as-T4"  = { vcpus = 8, memory_gib = 56 }
    "Consumption-GPU-NC24-A100" = { vcpus = 24, memory_gib = 220 }
  }

  apps = merge(
    var.image == null ? {} : {
      cpu = {
        environment_id      = one(azurerm_container_app_environment.cpu[*].id)
        profile             = "Consumption"
        image               = var.image
        vcpus               = var.cpu.vcpus
        memory_gib          = var.cpu.memory_gib
        min_replicas        = var.scale.min_replicas
        max_replicas        = var.scale.max_replicas
        concurrent_requests = var.scale.concurrent_requests
        cooldown_seconds    = var.scale.cooldown_seconds
        revision_mode       = var.revision_mode
        traffic             = var.traffic
        in_subnet           = var.subnet_id != null
        environment         = {}
      }
    },
    var.gpu_image == null ? {} : {
      gpu = {
        environment_id      = one(azapi_resource.gpu_environment[*].id)
        profile             = local.gpu_profile_name
        image               = var.gpu_image
        vcpus               = local.gpu_sizes[var.gpu.profile].vcpus
        memory_gib          = local.gpu_sizes[var.gpu.profile].memory_gib
        min_replicas        = var.gpu.min_replicas
        max_replicas        = var.gpu.max_replicas
        concurrent_requests = var.gpu.concurrent_requests
        cooldown_seconds    = var.gpu.cooldown_seconds
        in_subnet           = false
        # Two revisions would need two GPUs.
        revision_mode = "Single"
        traffic       = { latest = 100 }
        # A replica that finds no GPU must not serve at a CPU's speed and a GPU's price.
        environment = { DEVICE = "cuda" }
      }
    },
  )

  gpu_profile_name = "gpu"

  has_keys = nonsensitive(length(var.api_keys) > 0) || var.api_keys_secret != null

  program_environment = merge(
    var.environment,
    {
      REQUEST_TIMEOUT_S = tostring(var.request_timeout_seconds)
      SHUTDOWN_GRACE_S  = tostring(local.shutdown_grace_seconds)
    },
    var.otlp_endpoint == null ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.otlp_endpoint },
  )
}

resource "azurerm_container_app_environment" "cpu" {
  count = var.image == null ? 0 : 1

  name                = "${var.name}-cpu"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  # By diagnostic settings, which need no shared key of the workspace.
  logs_destination               = "azure-monitor"
  infrastructure_subnet_id       = var.subnet_id
  internal_load_balancer_enabled = var.subnet_id == null ? null : !var.external
  tags                           = local.tags

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
  count = var.gpu_image == null ? 0 : 1

  type      = "Microsoft.App/managedEnvironments@2025-07-01"
  name      = "${var.name}-gpu"
  parent_id = azurerm_resource_group.this.id
  location  = var.gpu.location
  tags      = local.tags

  body = {
    properties = {
      appLogsConfiguration = { destination = "azure-monitor" }
      workloadProfiles = [
        { name = "Consumption", workloadProfileType = "Consumption" },
        { name = local.gpu_profile_name, workloadProfileType = var.gpu.profile },
      ]
    }
  }
}

resource "azurerm_monitor_diagnostic_setting" "apps" {
  for_each = { for kind, app in local.apps : kind => app.environment_id }

  name                       = "logs"
  target_resource_id         = each.value
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id

  enabled_log {
    category = "ContainerAppConsoleLogs"
  }
  enabled_log {
    category = "ContainerAppSystemLogs"
  }
}

resource "azurerm_container_app" "this" {
  for_each = local.apps

  name                         = "${var.name}-${each.key}"
  resource_group_name          = azurerm_resource_group.this.name
  container_app_environment_id = each.value.environment_id
  workload_profile_name        = each.value.profile
  revision_mode                = each.value.revision_mode
  max_inactive_revisions       = 10
  tags                         = local.tags

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.apps.id]
  }

  registry {
    server   = azurerm_container_registry.this.login_server
    identity = azurerm_user_assigned_identity.apps.id
  }

  dynamic "secret" {
    for_each = local.has_keys ? ["api-keys"] : []

    content {
      name                = secret.value
      value               = var.api_keys_secret == null ? join(",", var.api_keys) : null
      key_vault_secret_id = try(var.api_keys_secret.uri, null)
      identity            = var.api_keys_secret == null ? null : azurerm_user_assigned_identity.apps.id
    }
  }

  ingress {
    # In an environment that is itself closed to the internet, "external" means the subnet's network.
    external_enabled           = var.external || each.value.in_subnet
    allow_insecure_connections = false
    target_port                = local.port
    transport                  = "auto"

    dynamic "traffic_weight" {
      for_each = each.value.traffic

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
    min_replicas                     = each.value.min_replicas
    max_replicas                     = each.value.max_replicas
    cooldown_period_in_seconds       = each.value.cooldown_seconds
    termination_grace_period_seconds = local.shutdown_grace_seconds + 10

    http_scale_rule {
      name                = "requests"
      concurrent_requests = tostring(each.value.concurrent_requests)
    }

    container {
      name   = "reranker"
      image  = "${azurerm_container_registry.this.login_server}/${each.value.image}"
      cpu    = each.value.vcpus
      memory = "${each.value.memory_gib}Gi"

      dynamic "env" {
        for_each = merge(local.program_environment, { PORT = tostring(local.port) }, each.value.environment)

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

  depends_on = [
    azurerm_role_assignment.apps_pull,
    azurerm_role_assignment.apps_keys,
  ]
}
