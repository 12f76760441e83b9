# What somebody should be woken for. The metrics are the platform's; the program's own are at /metrics.

locals {
  alerts = !var.alerts ? {} : {
    errors = {
      description = "Requests fail with 5xx. The log has the codes (not_ready, deadline_exceeded, internal)."
      severity    = 1
      metric      = "Requests"
      aggregation = "Total"
      threshold   = 10
      dimensions  = { statusCodeCategory = ["5xx"] }
    }
    restarts = {
      description = "Replicas restart: out of memory, a setting or a model that cannot be served, or a process that stopped answering /live."
      severity    = 1
      metric      = "RestartCount"
      # The count since the replica began: its sum over five minutes would be five times one restart.
      aggregation = "Maximum"
      threshold   = 2
      dimensions  = {}
    }
    slow = {
      description = "Answers take long. Allow more replicas, or fewer concurrent requests for each, or send smaller requests."
      severity    = 3
      metric      = "ResponseTime"
      aggregation = "Average"
      threshold   = 10000
      dimensions  = {}
    }
    full = {
      description = "All allowed replicas run: further requests wait. Allow more replicas, or send fewer or smaller requests."
      severity    = 3
      metric      = "Replicas"
      aggregation = "Maximum"
      threshold   = var.scale.max_replicas - 1
      dimensions  = {}
    }
  }
}

resource "azurerm_monitor_metric_alert" "this" {
  # One replica that is allowed is no sign of anything.
  for_each = { for name, alert in local.alerts : name => alert if name != "full" || var.scale.max_replicas > 1 }

  name                = "${var.name}-${each.key}"
  resource_group_name = var.resource_group_name
  scopes              = [azurerm_container_app.this.id]
  description         = each.value.description
  severity            = each.value.severity
  frequency           = "PT1M"
  window_size         = "PT5M"
  tags                = var.tags

  criteria {
    metric_namespace = "Microsoft.App/containerapps"
    metric_name      = each.value.metric
    aggregation      = each.value.aggregation
    operator         = "GreaterThan"
    threshold        = each.value.threshold

    dynamic "dimension" {
      for_each = each.value.dimensions

      content {
        name     = dimension.key
        operator = "Include"
        values   = dimension.value
      }
    }
  }

  action {
    action_group_id = var.alert_action_group_id
  }
}
