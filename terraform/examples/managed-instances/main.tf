# The function on instances of one's choice (Lambda Managed Instances): EC2 types whose cores have VNNI, AMX or i8mm, always warm, several requests
# to an environment. They are paid for by the hour, called or not.
#
# Not tried on an account, and three things are not known: whether a container image is taken (AWS documents provided.al2023 for Rust), what
# initialisation may take, and how SnapStart's label on the image is received. `terraform apply` tells the first at once.

provider "aws" {}

variable "instance_types" {
  description = "Instance types that may be used. c7i and m7i have AMX; c8g and m8g (Graviton4) need an arm64 image."
  type        = list(string)
  default     = ["c7i.xlarge", "c7i.2xlarge", "m7i.xlarge"]
}

variable "max_vcpus" {
  description = "Maximum vCPUs of all instances together, which bounds the cost."
  type        = number
  default     = 32
}

variable "subnet_ids" {
  description = "Subnets of the instances. They need a route to CloudWatch Logs: endpoints or NAT."
  type        = list(string)
}

variable "security_group_ids" {
  description = "Security groups of the instances."
  type        = list(string)
}

data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

resource "aws_iam_role" "operator" {
  name = "reranker-instances-${data.aws_region.current.id}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "operator" {
  role       = aws_iam_role.operator.name
  policy_arn = "arn:aws:iam::aws:policy/AWSLambdaManagedEC2ResourceOperator"
}

resource "aws_lambda_capacity_provider" "this" {
  name = "reranker"

  instance_requirements = [{
    architectures          = ["x86_64"]
    allowed_instance_types = var.instance_types
  }]

  capacity_provider_scaling_config = [{
    max_vcpu_count = var.max_vcpus
    scaling_mode   = "Auto"
  }]

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = var.security_group_ids
  }

  permissions_config {
    capacity_provider_operator_role_arn = aws_iam_role.operator.arn
  }

  depends_on = [aws_iam_role_policy_attachment.operator]
}

module "reranker" {
  source = "../../modules/lambda"

  repository_url = var.repository_url
  image_digest   = var.image_digest
  api_key_hashes = var.api_key_hashes
  memory_mb      = 8192
  capacity_provider = {
    arn                 = aws_lambda_capacity_provider.this.arn
    memory_gib_per_vcpu = 2
    # As many as one environment's cores can share a pass of: more only wait.
    max_concurrency = 4
  }
}

output "url" {
  description = "URL for clients with an API key."
  value       = module.reranker.api_url
}
