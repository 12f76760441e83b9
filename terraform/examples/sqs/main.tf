# Requests from a queue, answers into a queue. The function takes HTTP events alone, so a pipe hands each message to a state machine, which calls
# the function and sends the answer on with the message's id. A message is the body of POST /rerank; what is refused comes back as an error.
# The pipe starts the machine and does not wait: at most a message's retries and the machine's own bound how long it takes.

provider "aws" {}

data "aws_caller_identity" "current" {}

module "reranker" {
  source = "../../modules/lambda"

  repository_url = var.repository_url
  image_digest   = var.image_digest
  # The machine calls with IAM behind the function's door, and still brings a key.
  api_key_hashes = concat(var.api_key_hashes, ["sha256:${sha256(var.machine_key)}"])
}

variable "machine_key" {
  description = "API key that the state machine sends. It is in the state, and in the machine's definition."
  type        = string
  sensitive   = true
  validation {
    condition     = length(var.machine_key) >= 32
    error_message = "machine_key: at least 32 characters."
  }
}

resource "aws_sqs_queue" "dead" {
  name                      = "reranker-dead"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue" "in" {
  name                       = "reranker-in"
  visibility_timeout_seconds = 120
  sqs_managed_sse_enabled    = true
  redrive_policy             = jsonencode({ deadLetterTargetArn = aws_sqs_queue.dead.arn, maxReceiveCount = 3 })
}

resource "aws_sqs_queue" "out" {
  name                    = "reranker-out"
  sqs_managed_sse_enabled = true
}

locals {
  trust = { for service in ["pipes", "states"] : service => jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "${service}.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  }) }
}

resource "aws_iam_role" "machine" {
  name               = "reranker-sqs-machine"
  assume_role_policy = local.trust.states
}

resource "aws_iam_role_policy" "machine" {
  name = "call"
  role = aws_iam_role.machine.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["lambda:InvokeFunction"], Resource = [module.reranker.alias_arn] },
      { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [aws_sqs_queue.out.arn] },
    ]
  })
}

resource "aws_sfn_state_machine" "this" {
  #checkov:skip=CKV_AWS_284:Traces are paid for by each message.
  #checkov:skip=CKV_AWS_285:The log would have the data of executions: queries and passages, and the key.
  name     = "reranker-sqs"
  role_arn = aws_iam_role.machine.arn
  # Standard, whose steps run once: an express one may send an answer twice.
  type = "STANDARD"
  definition = jsonencode({
    QueryLanguage = "JSONata"
    StartAt       = "Each message"
    States = {
      "Each message" = {
        Type  = "Map"
        Items = "{% $states.input %}"
        ItemProcessor = {
          ProcessorConfig = { Mode = "INLINE" }
          StartAt         = "Score"
          States = {
            Score = {
              Type           = "Task"
              Resource       = "arn:aws:states:::lambda:invoke"
              TimeoutSeconds = 60
              Arguments = {
                FunctionName = module.reranker.alias_arn
                Payload = {
                  version        = "2.0"
                  routeKey       = "$default"
                  rawPath        = "/rerank"
                  rawQueryString = ""
                  headers        = { "content-type" = "application/json", authorization = "Bearer ${var.machine_key}" }
                  requestContext = {
                    stage     = "$default"
                    requestId = "{% $states.input.messageId %}"
                    http      = { method = "POST", path = "/rerank", protocol = "HTTP/1.1", sourceIp = "127.0.0.1", userAgent = "sqs" }
                  }
                  body            = "{% $states.input.body %}"
                  isBase64Encoded = false
                }
              }
              Output = "{% {'id': $states.input.messageId, 'status': $states.result.Payload.statusCode, 'answer': $parse($states.result.Payload.body)} %}"
              # What passes by itself: throttling, and Lambda's own faults.
              Retry = [{
                ErrorEquals     = ["Lambda.TooManyRequestsException", "Lambda.ServiceException", "Lambda.AWSLambdaException", "Lambda.SdkClientException"]
                IntervalSeconds = 2
                BackoffRate     = 2
                MaxDelaySeconds = 60
                MaxAttempts     = 8
                JitterStrategy  = "FULL"
              }]
              Next = "Answer"
            }
            Answer = {
              Type      = "Task"
              Resource  = "arn:aws:states:::sqs:sendMessage"
              Arguments = { QueueUrl = aws_sqs_queue.out.url, MessageBody = "{% $string($states.input) %}" }
              End       = true
            }
          }
        }
        End = true
      }
    }
  })

  depends_on = [aws_iam_role_policy.machine]
}

resource "aws_iam_role" "pipe" {
  name               = "reranker-sqs-pipe"
  assume_role_policy = local.trust.pipes
}

resource "aws_iam_role_policy" "pipe" {
  name = "move"
  role = aws_iam_role.pipe.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], Resource = [aws_sqs_queue.in.arn] },
      { Effect = "Allow", Action = ["states:StartExecution"], Resource = [aws_sfn_state_machine.this.arn] },
    ]
  })
}

resource "aws_pipes_pipe" "this" {
  name     = "reranker-sqs"
  role_arn = aws_iam_role.pipe.arn
  source   = aws_sqs_queue.in.arn
  target   = aws_sfn_state_machine.this.arn

  source_parameters {
    sqs_queue_parameters {
      batch_size = 10
    }
  }

  target_parameters {
    step_function_state_machine_parameters {
      invocation_type = "FIRE_AND_FORGET"
    }
  }

  depends_on = [aws_iam_role_policy.pipe]
}

output "queues" {
  description = "Queues for requests, for answers, and for requests that could not be handed on."
  value       = { in = aws_sqs_queue.in.url, out = aws_sqs_queue.out.url, dead = aws_sqs_queue.dead.url }
}
