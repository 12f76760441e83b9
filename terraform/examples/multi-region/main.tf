# The same service in two regions behind one name: callers reach the nearer one, and the other while that one is not healthy.

provider "aws" {
  region = var.regions.first
}

provider "aws" {
  alias  = "second"
  region = var.regions.second
}

variable "regions" {
  description = "The two regions."
  type        = object({ first = string, second = string })
  default     = { first = "eu-central-1", second = "us-east-1" }
  validation {
    condition     = var.regions.first != var.regions.second
    error_message = "regions: two different ones."
  }
}

variable "domain" {
  description = "Name that callers use."
  type        = string
}

variable "zone_id" {
  description = "Zone of Route 53 that the name is in."
  type        = string
}

variable "certificate_arns" {
  description = "An issued certificate for the name in each of the two regions."
  type        = object({ first = string, second = string })
}

# The image is pushed once, and copied. The copy's repository needs the policy that lets Lambda fetch, too.
resource "aws_ecr_replication_configuration" "this" {
  replication_configuration {
    rule {
      destination {
        region      = var.regions.second
        registry_id = split(".", var.repository_url)[0]
      }
    }
  }
}

module "first" {
  source = "../../modules/lambda"

  repository_url = var.repository_url
  image_digest   = var.image_digest
  api_key_hashes = var.api_key_hashes
}

module "second" {
  source    = "../../modules/lambda"
  providers = { aws = aws.second }

  repository_url = replace(var.repository_url, var.regions.first, var.regions.second)
  image_digest   = var.image_digest
  api_key_hashes = var.api_key_hashes
}

resource "aws_apigatewayv2_domain_name" "first" {
  domain_name = var.domain
  domain_name_configuration {
    certificate_arn = var.certificate_arns.first
    endpoint_type   = "REGIONAL"
    security_policy = "TLS_1_2"
  }
}

resource "aws_apigatewayv2_api_mapping" "first" {
  api_id      = module.first.api_id
  domain_name = aws_apigatewayv2_domain_name.first.id
  stage       = "$default"
}

resource "aws_apigatewayv2_domain_name" "second" {
  provider = aws.second

  domain_name = var.domain
  domain_name_configuration {
    certificate_arn = var.certificate_arns.second
    endpoint_type   = "REGIONAL"
    security_policy = "TLS_1_2"
  }
}

resource "aws_apigatewayv2_api_mapping" "second" {
  provider = aws.second

  api_id      = module.second.api_id
  domain_name = aws_apigatewayv2_domain_name.second.id
  stage       = "$default"
}

locals {
  places = {
    first  = { region = var.regions.first, target = aws_apigatewayv2_domain_name.first.domain_name_configuration[0], api = module.first.api_url }
    second = { region = var.regions.second, target = aws_apigatewayv2_domain_name.second.domain_name_configuration[0], api = module.second.api_url }
  }
}

# /live needs no key and no model: a region is left when it does not answer at all. Each check keeps an instance warm.
resource "aws_route53_health_check" "this" {
  for_each = local.places

  type              = "HTTPS"
  fqdn              = trimprefix(each.value.api, "https://")
  resource_path     = "/live"
  port              = 443
  request_interval  = 30
  failure_threshold = 3
}

resource "aws_route53_record" "this" {
  #checkov:skip=CKV2_AWS_23:It points to the domain names above, by way of a local value.
  for_each = local.places

  zone_id         = var.zone_id
  name            = var.domain
  type            = "A"
  set_identifier  = each.value.region
  health_check_id = aws_route53_health_check.this[each.key].id

  latency_routing_policy {
    region = each.value.region
  }

  alias {
    name                   = each.value.target.target_domain_name
    zone_id                = each.value.target.hosted_zone_id
    evaluate_target_health = true
  }
}

output "url" {
  description = "URL for clients with an API key."
  value       = "https://${var.domain}"
}
