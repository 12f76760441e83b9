# What somebody should be woken for, by App Service's own metrics.

locals {
  alerts = !var.alerts ? {} : {
    functions-errors = {
      description = "Requests fail with 5xx. The log has the codes (not_ready, deadline_exceeded, internal)."
      severity    = 1
      metric      = "Http5xx"
      aggregation = "Total"
      operator    = "GreaterThan"
      threshold   = 10
    }
    functions-unhealthy = {
      description = "Instances do not answer /ready: a setting or a model that cannot be served, or a host that does not start the program."
      severity    = 1
      # The share of instances whose health check passes.
      metric      = "HealthCheckStatus"
      aggregation = "Average"
      operator    = "LessThan"
      threshold   = 100
    }
  }
}

resource "azurerm_monitor_metric_alert" "this" {
  for_each = local.alerts

  name                = "${var.name}-${each.key}"
  resource_group_name = var.resource_group_name
  scopes              = [azurerm_linux_function_app.this.id]
  description         = each.value.description
  severity            = each.value.severity
  frequency           = "PT1M"
  window_size         = "PT5M"
  tags                = var.tags

  criteria {
    metric_namespace = "Microsoft.Web/sites"
    metric_name      = each.value.metric
    aggregation      = each.value.aggregation
    operator         = each.value.operator
    threshold        = each.value.threshold
  }

  action {
    action_group_id = var.alert_action_group_id
  }
}
