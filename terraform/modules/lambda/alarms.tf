locals {
  alarm_actions = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
  metrics       = "serverless-reranker/${var.name}"
  on_the_alias  = { FunctionName = var.name, Resource = "${var.name}:${local.alias.name}" }

  # Of the version that comes or has come, beside the alias's others.
  on_the_version = merge(local.on_the_alias, { ExecutedVersion = local.coming_version })
  gradual        = local.by_codedeploy || var.canary_weight > 0

  # What stops a deployment and takes the alias back.
  alarms_of_a_rollout = ["errors", "throttles", "server-errors", "new-version-errors", "new-version-server-errors", "new-version-slow"]

  every_alarm = {
    errors = {
      description = "Invocations crashed or timed out. The log's last lines before that give the reason. Roll back with stable_version."
      namespace   = "AWS/Lambda", metric = "Errors", dimensions = local.on_the_alias
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 3, datapoints = 2
    }
    throttles = {
      description = "Calls found no instance. Raise reserved_concurrency or the account's limit, or give each instance more memory."
      namespace   = "AWS/Lambda", metric = "Throttles", dimensions = local.on_the_alias
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 3, datapoints = 2
    }
    slow = {
      description = "One call in a hundred takes longer than alarm_p99_ms. Send fewer or shorter passages at a time, or raise memory_mb."
      namespace   = "AWS/Lambda", metric = "Duration", dimensions = local.on_the_alias
      statistic   = null, percentile = "p99", threshold = var.alarm_p99_ms, period = 300, periods = 3, datapoints = 2
    }
    # The service answers its own faults as 5xx, which to Lambda are invocations that went well.
    server-errors = {
      description = "The service answered 5xx, by the HTTP API or the Function URL. The log's request lines have the codes."
      namespace   = local.metrics, metric = "ServerErrors", dimensions = {}
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 3, datapoints = 2
    }
    new-version-errors = {
      description = "The new version crashes or times out. A deployment rolls back by itself; by hand: stable_version."
      namespace   = "AWS/Lambda", metric = "Errors", dimensions = local.on_the_version
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 1, datapoints = 1
    }
    # Only the service's own metrics tell versions apart (metrics = "full").
    new-version-server-errors = {
      description = "The new version answers 5xx. A deployment rolls back by itself; by hand: stable_version."
      namespace   = "serverless-reranker", metric = "ServerErrors", dimensions = { Function = var.name, Version = local.coming_version }
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 3, datapoints = 2
    }
    new-version-slow = {
      description = "The new version is slower than alarm_p99_ms. A deployment rolls back by itself; by hand: stable_version."
      namespace   = "AWS/Lambda", metric = "Duration", dimensions = local.on_the_version
      statistic   = null, percentile = "p99", threshold = var.alarm_p99_ms, period = 60, periods = 3, datapoints = 2
    }
    api-server-errors = {
      description = "The HTTP API answered 5xx. The access log has the requests, the function's log the reasons under the same ids."
      namespace   = "AWS/ApiGateway", metric = "5xx", dimensions = { ApiId = aws_apigatewayv2_api.this.id }
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 3, datapoints = 2
    }
    url-server-errors = {
      description = "The Function URL answered 5xx. The function's log has the requests."
      namespace   = "AWS/Lambda", metric = "Url5xxCount", dimensions = { FunctionName = var.name }
      statistic   = "Sum", percentile = null, threshold = 0, period = 60, periods = 3, datapoints = 2
    }
    slow-start = {
      description = "An instance took longer than alarm_init_ms to start. Lower init_budget_s, raise memory_mb, or set start to snap-start."
      namespace   = local.metrics, metric = var.start == "snap-start" ? "RestoreTime" : "InitTime", dimensions = {}
      statistic   = "Maximum", percentile = null, threshold = var.alarm_init_ms, period = 300, periods = 1, datapoints = 1
    }
  }
  alarms = {
    for key, alarm in local.every_alarm : key => alarm
    if(local.gradual || !startswith(key, "new-version")) && (var.metrics == "full" || key != "new-version-server-errors")
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  extended_statistic  = each.value.percentile
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.datapoints
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}

# Lambda has no metric for the time of a start; its report line has it, on the first call of an instance.
resource "aws_cloudwatch_log_metric_filter" "start" {
  for_each = { InitTime = "initDurationMs", RestoreTime = "restoreDurationMs" }

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.function.name
  pattern        = "{ $.type = \"platform.report\" && $.record.metrics.${each.value} > 0 }"

  metric_transformation {
    namespace = local.metrics
    name      = each.key
    value     = "$.record.metrics.${each.value}"
    unit      = "Milliseconds"
  }
}

# The service's own metrics from its request lines, by function: those that its embedded metric format would give by route and dialect, too,
# each for thirty cents a month (metrics = "full").
resource "aws_cloudwatch_log_metric_filter" "requests" {
  for_each = {
    Requests     = { where = "", value = "1", unit = "Count" }
    ClientErrors = { where = " && $.status >= 400 && $.status < 500", value = "1", unit = "Count" }
    ServerErrors = { where = " && $.status >= 500", value = "1", unit = "Count" }
    RequestTime  = { where = "", value = "$.ms", unit = "Milliseconds" }
    Tokens       = { where = " && $.tokens > 0", value = "$.tokens", unit = "Count" }
  }

  name           = "${var.name}-${each.key}"
  log_group_name = aws_cloudwatch_log_group.function.name
  pattern        = "{ $.message = \"request\"${each.value.where} }"

  metric_transformation {
    namespace = local.metrics
    name      = each.key
    value     = each.value.value
    unit      = each.value.unit
  }
}
