# A SageMaker endpoint: the same image, which answers /ping and /invocations. Callers sign with IAM (`sagemaker:InvokeEndpoint`), so the service asks
# for no key of its own. Serverless (from zero, at most 6 GB) or instances (always there, GPUs too).
#
#   aws sagemaker-runtime invoke-endpoint --endpoint-name reranker --content-type application/json \
#       --body fileb://request.json /dev/stdout
#
# Not tried on an account. SageMaker starts the image with `serve`, which is the program's command, on port 8080.

provider "aws" {}

variable "repository_url" {
  description = "Repository of ECR that has the image."
  type        = string
}

variable "image_digest" {
  description = "Digest (sha256:…) of the image."
  type        = string
}

variable "instance_type" {
  description = "Instances of this type, such as ml.c7i.xlarge; empty for a serverless endpoint."
  type        = string
  default     = ""
}

variable "instances" {
  description = "Number of instances, with instance_type."
  type        = number
  default     = 1
}

variable "serverless_memory_mb" {
  description = "Memory of a serverless instance: 1024 to 6144, by 1024."
  type        = number
  default     = 6144
  validation {
    condition     = contains([1024, 2048, 3072, 4096, 5120, 6144], var.serverless_memory_mb)
    error_message = "serverless_memory_mb: 1024 to 6144, by 1024."
  }
}

data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

locals {
  repository = "arn:aws:ecr:${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}:repository/${split("/", var.repository_url)[1]}"
}

resource "aws_iam_role" "this" {
  name = "reranker-sagemaker-${data.aws_region.current.id}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "sagemaker.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  #checkov:skip=CKV_AWS_290:What has no resources, ECR's token and metrics, is allowed on everything.
  #checkov:skip=CKV_AWS_355:As CKV_AWS_290.
  name = "run"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"], Resource = [local.repository] },
      { Effect = "Allow", Action = ["ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"], Resource = ["*"] },
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["arn:aws:logs:${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}:log-group:/aws/sagemaker/Endpoints/*"]
      },
    ]
  })
}

resource "aws_sagemaker_model" "this" {
  name               = "reranker-${substr(sha256(var.image_digest), 0, 8)}"
  execution_role_arn = aws_iam_role.this.arn
  # The model is in the image: nothing has to be fetched.
  enable_network_isolation = true

  primary_container {
    image       = "${var.repository_url}@${var.image_digest}"
    environment = { PORT = "8080" }
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [aws_iam_role_policy.this]
}

resource "aws_sagemaker_endpoint_configuration" "this" {
  #checkov:skip=CKV_AWS_98:A disk of an instance holds the image and nothing of callers.
  name_prefix = "reranker-"

  production_variants {
    variant_name           = "live"
    model_name             = aws_sagemaker_model.this.name
    instance_type          = var.instance_type == "" ? null : var.instance_type
    initial_instance_count = var.instance_type == "" ? null : var.instances

    dynamic "serverless_config" {
      for_each = var.instance_type == "" ? [1] : []
      content {
        memory_size_in_mb = var.serverless_memory_mb
        max_concurrency   = 5
      }
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_sagemaker_endpoint" "this" {
  name                 = "reranker"
  endpoint_config_name = aws_sagemaker_endpoint_configuration.this.name
}

output "endpoint" {
  description = "Name of the endpoint, for sagemaker-runtime."
  value       = aws_sagemaker_endpoint.this.name
}
