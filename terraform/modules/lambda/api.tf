resource "aws_cloudwatch_log_group" "access" {
  #checkov:skip=CKV_AWS_338:How long logs are worth keeping is log_retention_days; a month is enough to look into what an alarm tells.
  name              = "/aws/apigateway/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = local.key_arn
}

resource "aws_apigatewayv2_api" "this" {
  name          = var.name
  description   = "serverless-reranker"
  protocol_type = "HTTP"
}

resource "aws_apigatewayv2_integration" "this" {
  api_id                 = aws_apigatewayv2_api.this.id
  integration_type       = "AWS_PROXY"
  integration_method     = "POST"
  integration_uri        = local.alias.invoke_arn
  payload_format_version = "2.0"
  timeout_milliseconds   = 30000
}

resource "aws_apigatewayv2_authorizer" "jwt" {
  count = var.http_api_authorization == "JWT" ? 1 : 0

  api_id           = aws_apigatewayv2_api.this.id
  name             = "jwt"
  authorizer_type  = "JWT"
  identity_sources = ["$request.header.Authorization"]

  jwt_configuration {
    issuer   = var.jwt_issuer
    audience = var.jwt_audience
  }
}

# Every route there is, which the service tells apart itself.
resource "aws_apigatewayv2_route" "every" {
  #checkov:skip=CKV_AWS_309:http_api_authorization is a variable; with NONE the service's own API keys are asked for, or allow_anonymous.
  api_id             = aws_apigatewayv2_api.this.id
  route_key          = "$default"
  target             = "integrations/${aws_apigatewayv2_integration.this.id}"
  authorization_type = var.http_api_authorization
  authorizer_id      = var.http_api_authorization == "JWT" ? aws_apigatewayv2_authorizer.jwt[0].id : null
}

# What has no credentials to show, where the HTTP API asks for some: a browser's preflight, and monitors. The service tells neither of them anything else.
resource "aws_apigatewayv2_route" "open" {
  #checkov:skip=CKV_AWS_309:They are open on purpose: no key is asked for at these paths by the service either.
  for_each = var.http_api_authorization == "NONE" ? [] : toset(["OPTIONS /{proxy+}", "GET /health", "GET /live", "GET /ready"])

  api_id             = aws_apigatewayv2_api.this.id
  route_key          = each.value
  target             = "integrations/${aws_apigatewayv2_integration.this.id}"
  authorization_type = "NONE"
}

# The default stage is not part of the path.
resource "aws_apigatewayv2_stage" "default" {
  api_id      = aws_apigatewayv2_api.this.id
  name        = "$default"
  auto_deploy = true

  default_route_settings {
    throttling_rate_limit    = var.throttle_rate
    throttling_burst_limit   = var.throttle_burst
    detailed_metrics_enabled = true
  }

  access_log_settings {
    destination_arn = aws_cloudwatch_log_group.access.arn
    format = jsonencode({
      requestId         = "$context.requestId"
      time              = "$context.requestTime"
      ip                = "$context.identity.sourceIp"
      method            = "$context.httpMethod"
      path              = "$context.path"
      status            = "$context.status"
      responseBytes     = "$context.responseLength"
      ms                = "$context.responseLatency"
      integrationMs     = "$context.integrationLatency"
      integrationStatus = "$context.integrationStatus"
      error             = "$context.error.message"
      integrationError  = "$context.integrationErrorMessage"
    })
  }
}

resource "aws_lambda_permission" "api" {
  statement_id  = "http-api"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  qualifier     = local.alias.name
  principal     = "apigateway.amazonaws.com"
  source_arn    = "${aws_apigatewayv2_api.this.execution_arn}/*"
}

resource "aws_lambda_function_url" "live" {
  function_name      = aws_lambda_function.this.function_name
  qualifier          = local.alias.name
  authorization_type = "AWS_IAM"
  invoke_mode        = "BUFFERED"
}

# A Function URL asks of its callers for both actions: of this account's by a policy, of other accounts' by the function's as well.
resource "aws_iam_policy" "caller" {
  name        = "${local.iam_name}-caller"
  description = "Lets whom it is attached to call the reranker through its Function URL, and through its HTTP API where that asks for IAM"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(var.http_api_authorization != "AWS_IAM" ? [] : [
      { Effect = "Allow", Action = ["execute-api:Invoke"], Resource = ["${aws_apigatewayv2_api.this.execution_arn}/*"] },
      ], [
      {
        Effect    = "Allow"
        Action    = ["lambda:InvokeFunctionUrl"]
        Resource  = [local.alias.arn]
        Condition = { StringEquals = { "lambda:FunctionUrlAuthType" = "AWS_IAM" } }
      },
      {
        Effect    = "Allow"
        Action    = ["lambda:InvokeFunction"]
        Resource  = [local.alias.arn]
        Condition = { Bool = { "lambda:InvokedViaFunctionUrl" = "true" } }
      },
    ])
  })
}

resource "aws_lambda_permission" "url" {
  for_each = toset(var.function_url_accounts)

  statement_id           = "url-${each.value}"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.this.function_name
  qualifier              = local.alias.name
  principal              = each.value
  function_url_auth_type = "AWS_IAM"
}

resource "aws_lambda_permission" "url_invoke" {
  for_each = toset(var.function_url_accounts)

  statement_id             = "url-invoke-${each.value}"
  action                   = "lambda:InvokeFunction"
  function_name            = aws_lambda_function.this.function_name
  qualifier                = local.alias.name
  principal                = each.value
  invoked_via_function_url = true
}
