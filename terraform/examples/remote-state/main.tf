# A bucket for Terraform's state, which then several people and workflows share. Applied once, with a state of its own on a disk.
#
# In terraform/aws (or any example), backend.tf:
#
#   terraform {
#     backend "s3" {
#       bucket       = "the output `bucket`"
#       key          = "reranker/production.tfstate"
#       region       = "the bucket's region"
#       use_lockfile = true
#       encrypt      = true
#     }
#   }
#
# then `terraform init -migrate-state`. In terraform/azure the same with a storage account:
#
#   terraform {
#     backend "azurerm" {
#       storage_account_name = "…"
#       container_name       = "tfstate"
#       key                  = "reranker.tfstate"
#       use_azuread_auth     = true
#     }
#   }

provider "aws" {}

data "aws_caller_identity" "current" {}
data "aws_region" "current" {}

module "state" {
  source = "../../modules/bucket"

  name = "terraform-state-${data.aws_caller_identity.current.account_id}-${data.aws_region.current.id}"
}

output "bucket" {
  description = "Bucket for the states."
  value       = module.state.name
}
