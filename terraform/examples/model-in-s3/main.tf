# The model in a bucket instead of the image: one image for several models, and a new model without a new image.
#
#   terraform apply -target=module.models
#   reranker pack --model DIR && aws s3 cp DIR/packed.safetensors "s3://$(terraform output -raw bucket)/bge-reranker-v2-m3/2026-11/"
#   terraform apply
#
# Never write over an object that instances may still load: give the new model a new key, and roll out the new key.

provider "aws" {}

data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

variable "model_key" {
  description = "Key of the packed model in the bucket."
  type        = string
  default     = "bge-reranker-v2-m3/2026-11/packed.safetensors"
}

module "models" {
  source = "../../modules/bucket"

  name = "reranker-models-${data.aws_caller_identity.current.account_id}-${data.aws_region.current.id}"
}

module "reranker" {
  source = "../../modules/lambda"

  repository_url = var.repository_url
  image_digest   = var.image_digest
  api_key_hashes = var.api_key_hashes
  model_uri      = "s3://${module.models.name}/${var.model_key}"
  # /tmp holds the packed model, 331 MiB at full size, and the part that is being written.
  ephemeral_storage_mb = 1024
}

output "bucket" {
  description = "Bucket for packed models."
  value       = module.models.name
}

output "url" {
  description = "URL for clients with an API key."
  value       = module.reranker.api_url
}
