# What an operator looks at first. suites/terraform/dashboards.py holds its metrics' names to what gives them.
locals {
  lambda_dimensions = ["FunctionName", var.name, "Resource", "${var.name}:${local.alias.name}"]
  widgets = [
    {
      title   = "Requests and refusals"
      metrics = [for name in ["Requests", "ClientErrors", "ServerErrors"] : [local.metrics, name, { stat = "Sum" }]]
    },
    {
      title   = "Time of a request (ms)"
      metrics = [for stat in ["p50", "p90", "p99"] : [local.metrics, "RequestTime", { stat = stat, label = stat }]]
    },
    {
      title   = "Tokens a minute"
      metrics = [[local.metrics, "Tokens", { stat = "Sum" }]]
    },
    {
      title   = "Crashes, timeouts and throttles"
      metrics = [for name in ["Errors", "Throttles"] : concat(["AWS/Lambda", name], local.lambda_dimensions, [{ stat = "Sum" }])]
    },
    {
      title = "Instances"
      metrics = [
        ["AWS/Lambda", "ConcurrentExecutions", "FunctionName", var.name, { stat = "Maximum" }],
        concat(["AWS/Lambda", "ProvisionedConcurrencySpilloverInvocations"], local.lambda_dimensions, [{ stat = "Sum" }]),
      ]
    },
    {
      title   = "Starts (ms)"
      metrics = [for name in ["InitTime", "RestoreTime"] : [local.metrics, name, { stat = "Maximum" }]]
    },
    {
      title   = "The HTTP API: latency (ms) and 5xx"
      metrics = [["AWS/ApiGateway", "Latency", "ApiId", aws_apigatewayv2_api.this.id, { stat = "p99" }], ["AWS/ApiGateway", "5xx", "ApiId", aws_apigatewayv2_api.this.id, { stat = "Sum", yAxis = "right" }]]
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  count = var.dashboard ? 1 : 0

  dashboard_name = "${var.name}-${local.region}"
  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type       = "alarm", x = 0, y = 0, width = 24, height = 3
        properties = { title = "Alarms", alarms = [for alarm in aws_cloudwatch_metric_alarm.this : alarm.arn] }
      }],
      [for index, widget in local.widgets : {
        type = "metric", x = index % 3 * 8, y = 3 + floor(index / 3) * 6, width = 8, height = 6
        properties = {
          title   = widget.title
          region  = local.region
          view    = "timeSeries"
          period  = 60
          metrics = widget.metrics
        }
      }],
      [{
        type = "log", x = 8, y = 15, width = 16, height = 6
        properties = {
          title  = "The slowest requests"
          region = local.region
          view   = "table"
          query  = "SOURCE '${aws_cloudwatch_log_group.function.name}' | filter message = 'request' | sort ms desc | limit 20 | display @timestamp, id, route, status, ms, pairs, tokens, code"
        }
      }],
    )
  })
}
