# The function in a network without a way out: no internet gateway, no NAT. What it needs of AWS comes by endpoints. Logs need none: Lambda
# itself takes them.

provider "aws" {}

variable "model_bucket" {
  description = "Bucket that the model comes from; empty for the image's own model."
  type        = string
  default     = ""
}

data "aws_region" "current" {}

data "aws_availability_zones" "available" {
  #checkov:skip=CKV_AWS_394:The first two by name are taken, and new zones come after them.
  state = "available"
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:Nothing leaves but to S3, whose data events CloudTrail keeps.
  cidr_block           = "10.20.0.0/24"
  enable_dns_hostnames = true
  enable_dns_support   = true
}

resource "aws_default_security_group" "none" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "private" {
  count = 2

  vpc_id            = aws_vpc.this.id
  cidr_block        = cidrsubnet(aws_vpc.this.cidr_block, 2, count.index)
  availability_zone = data.aws_availability_zones.available.names[count.index]
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.this.id
}

resource "aws_route_table_association" "private" {
  count = 2

  subnet_id      = aws_subnet.private[count.index].id
  route_table_id = aws_route_table.private.id
}

# Costs nothing. An endpoint of the other kind costs about $7 a month in each zone, a NAT gateway $33.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${data.aws_region.current.id}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.private.id]

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = "*"
      Action    = "s3:GetObject"
      Resource  = var.model_bucket == "" ? "arn:aws:s3:::*/*" : "arn:aws:s3:::${var.model_bucket}/*"
    }]
  })
}

resource "aws_security_group" "function" {
  name        = "reranker"
  description = "The reranker: nothing comes in, HTTPS to S3 goes out"
  vpc_id      = aws_vpc.this.id
}

resource "aws_vpc_security_group_egress_rule" "s3" {
  security_group_id = aws_security_group.function.id
  description       = "S3, by the endpoint"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = aws_vpc_endpoint.s3.prefix_list_id
}

module "reranker" {
  source = "../../modules/lambda"

  repository_url         = var.repository_url
  image_digest           = var.image_digest
  api_key_hashes         = var.api_key_hashes
  model_uri              = var.model_bucket == "" ? "" : "s3://${var.model_bucket}/packed.safetensors"
  ephemeral_storage_mb   = var.model_bucket == "" ? 512 : 2048
  vpc_subnet_ids         = aws_subnet.private[*].id
  vpc_security_group_ids = [aws_security_group.function.id]
}

output "url" {
  description = "URL for clients with an API key."
  value       = module.reranker.api_url
}
