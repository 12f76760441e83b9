# A name of one's own, a firewall and limits by key in front: CloudFront with WAF. HTTP APIs have neither WAF nor limits by caller.
#
# The HTTP API's own address stays reachable, with a key: the firewall keeps load away, the key keeps strangers away. WAF reads 16 KB of a body.
# Certificate, firewall and provider are of us-east-1, because CloudFront takes them from nowhere else.

provider "aws" {}

provider "aws" {
  alias  = "global"
  region = "us-east-1"
}

variable "domain" {
  description = "Name that callers use; its record must point to the output `target`."
  type        = string
}

variable "certificate_arn" {
  description = "An issued certificate for the name, in us-east-1."
  type        = string
  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:us-east-1:", var.certificate_arn))
    error_message = "certificate_arn: CloudFront takes certificates from us-east-1 alone."
  }
}

variable "requests_by_key" {
  description = "Maximum requests of one key in five minutes."
  type        = number
  default     = 1000
  validation {
    condition     = var.requests_by_key >= 10
    error_message = "requests_by_key: WAF counts from 10."
  }
}

module "reranker" {
  source = "../../modules/lambda"

  repository_url = var.repository_url
  image_digest   = var.image_digest
  api_key_hashes = var.api_key_hashes
}

resource "aws_wafv2_web_acl" "this" {
  #checkov:skip=CKV_AWS_175:The rules are in rule_json, where the check does not look.
  #checkov:skip=CKV_AWS_192:As CKV_AWS_175; the rules for inputs that are known to be bad are those of Log4j.
  #checkov:skip=CKV2_AWS_31:CloudWatch has the counts by rule; requests are in the access log of the HTTP API.
  provider = aws.global

  name  = "reranker"
  scope = "CLOUDFRONT"

  default_action {
    allow {}
  }

  # As WAF's API has them.
  rule_json = jsonencode([
    # One key's requests are counted together, from whatever address. 403 then, for as long as the count stays above.
    {
      Name     = "by-key"
      Priority = 1
      Action   = { Block = {} }
      Statement = {
        RateBasedStatement = {
          Limit            = var.requests_by_key
          AggregateKeyType = "CUSTOM_KEYS"
          CustomKeys       = [{ Header = { Name = "authorization", TextTransformations = [{ Priority = 0, Type = "NONE" }] } }]
        }
      }
      VisibilityConfig = { CloudWatchMetricsEnabled = true, MetricName = "by-key", SampledRequestsEnabled = false }
    },
    {
      Name           = "known-bad-inputs"
      Priority       = 2
      OverrideAction = { None = {} }
      Statement      = { ManagedRuleGroupStatement = { VendorName = "AWS", Name = "AWSManagedRulesKnownBadInputsRuleSet" } }
      VisibilityConfig = {
        CloudWatchMetricsEnabled = true, MetricName = "known-bad-inputs", SampledRequestsEnabled = false
      }
    },
  ])

  visibility_config {
    cloudwatch_metrics_enabled = true
    metric_name                = "reranker"
    sampled_requests_enabled   = false
  }
}

resource "aws_cloudfront_distribution" "this" {
  #checkov:skip=CKV_AWS_86:The HTTP API's access log has every request that reaches the service.
  #checkov:skip=CKV_AWS_305:The service answers / itself, with the playground.
  #checkov:skip=CKV_AWS_310:One region; multi-region has two.
  #checkov:skip=CKV_AWS_374:Callers are allowed by their keys and not by their countries.
  #checkov:skip=CKV2_AWS_32:The service sets its own headers.
  #checkov:skip=CKV2_AWS_47:The rules are for inputs that are known to be bad; this is no Java program.
  enabled         = true
  aliases         = [var.domain]
  web_acl_id      = aws_wafv2_web_acl.this.arn
  http_version    = "http2and3"
  is_ipv6_enabled = true

  origin {
    origin_id   = "api"
    domain_name = trimprefix(module.reranker.api_url, "https://")
    custom_origin_config {
      http_port              = 80
      https_port             = 443
      origin_protocol_policy = "https-only"
      origin_ssl_protocols   = ["TLSv1.2"]
      origin_read_timeout    = 30
    }
  }

  default_cache_behavior {
    target_origin_id       = "api"
    allowed_methods        = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
    cached_methods         = ["GET", "HEAD"]
    viewer_protocol_policy = "https-only"
    compress               = true
    # AWS's own policies: nothing is cached; every header but the host goes on.
    cache_policy_id          = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
    origin_request_policy_id = "b689b0a8-53d0-40ab-baf2-68738e2966ac"
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    acm_certificate_arn      = var.certificate_arn
    minimum_protocol_version = "TLSv1.2_2021"
    ssl_support_method       = "sni-only"
  }
}

output "target" {
  description = "Target of the name's DNS record."
  value       = aws_cloudfront_distribution.this.domain_name
}

output "url" {
  description = "URL for clients with an API key."
  value       = "https://${var.domain}"
}
