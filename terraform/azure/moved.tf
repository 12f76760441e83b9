# Where everything was before there were modules, so that what is deployed is not made anew.

moved {
  from = azurerm_container_app_environment.cpu[0]
  to   = module.cpu[0].azurerm_container_app_environment.this[0]
}

moved {
  from = azapi_resource.gpu_environment[0]
  to   = module.gpu[0].azapi_resource.gpu_environment[0]
}

moved {
  from = azurerm_container_app.this["cpu"]
  to   = module.cpu[0].azurerm_container_app.this
}

moved {
  from = azurerm_monitor_diagnostic_setting.apps["cpu"]
  to   = module.cpu[0].azurerm_monitor_diagnostic_setting.this[0]
}

moved {
  from = azurerm_monitor_metric_alert.apps["cpu-errors"]
  to   = module.cpu[0].azurerm_monitor_metric_alert.this["errors"]
}

moved {
  from = azurerm_monitor_metric_alert.apps["cpu-restarts"]
  to   = module.cpu[0].azurerm_monitor_metric_alert.this["restarts"]
}

moved {
  from = azurerm_monitor_metric_alert.apps["cpu-slow"]
  to   = module.cpu[0].azurerm_monitor_metric_alert.this["slow"]
}

moved {
  from = azurerm_container_app.this["gpu"]
  to   = module.gpu[0].azurerm_container_app.this
}

moved {
  from = azurerm_monitor_diagnostic_setting.apps["gpu"]
  to   = module.gpu[0].azurerm_monitor_diagnostic_setting.this[0]
}

moved {
  from = azurerm_monitor_metric_alert.apps["gpu-errors"]
  to   = module.gpu[0].azurerm_monitor_metric_alert.this["errors"]
}

moved {
  from = azurerm_monitor_metric_alert.apps["gpu-restarts"]
  to   = module.gpu[0].azurerm_monitor_metric_alert.this["restarts"]
}

moved {
  from = azurerm_monitor_metric_alert.apps["gpu-slow"]
  to   = module.gpu[0].azurerm_monitor_metric_alert.this["slow"]
}

moved {
  from = azurerm_user_assigned_identity.functions[0]
  to   = module.functions[0].azurerm_user_assigned_identity.this
}

moved {
  from = azurerm_role_assignment.functions
  to   = module.functions[0].azurerm_role_assignment.this
}

moved {
  from = azurerm_storage_account.functions[0]
  to   = module.functions[0].azurerm_storage_account.this
}

moved {
  from = azurerm_monitor_action_group.smart_detection[0]
  to   = module.functions[0].azurerm_monitor_action_group.smart_detection
}

moved {
  from = azurerm_application_insights.functions[0]
  to   = module.functions[0].azurerm_application_insights.this
}

moved {
  from = azurerm_service_plan.functions[0]
  to   = module.functions[0].azurerm_service_plan.this
}

moved {
  from = azurerm_linux_function_app.this[0]
  to   = module.functions[0].azurerm_linux_function_app.this
}
