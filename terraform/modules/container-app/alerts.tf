# What somebody should be woken for. The metrics are the platform's; the program's own are at /metrics.

locals {
  alerts = var.alert_email == null ? {} : merge([
    for kind in keys(local.apps) : {
      "${kind}-errors" = {
        app         = kind
        description = "Requests fail with 5xx: read the log for the codes (not_ready, deadline_exceeded, internal)."
        severity    = 1
        metric      = "Requests"
        aggregation = "Total"
        threshold   = 10
        dimensions  = { statusCodeCategory = ["5xx"] }
      }
      "${kind}-restarts" = {
        app         = kind
        description = "Replicas restart: out of memory, a setting or a model that cannot be served, or a process that stopped answering /live."
        severity    = 1
        metric      = "RestartCount"
        aggregation = "Total"
        threshold   = 2
        dimensions  = {}
      }
      "${kind}-slow" = {
        app         = kind
        description = "Answers take long: more replicas, fewer concurrent requests for each, or smaller requests."
        severity    = 3
        metric      = "ResponseTime"
        aggregation = "Average"
        threshold   = 10000
        dimensions  = {}
      }
    }
  ]...)
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

resource "azurerm_monitor_metric_alert" "apps" {
  for_each = local.alerts

  name                = "${var.name}-${each.key}"
  resource_group_name = azurerm_resource_group.this.name
  scopes              = [azurerm_container_app.this[each.value.app].id]
  description         = each.value.description
  severity            = each.value.severity
  frequency           = "PT1M"
  window_size         = "PT5M"
  tags                = local.tags

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
    action_group_id = one(azurerm_monitor_action_group.this[*].id)
  }
}
