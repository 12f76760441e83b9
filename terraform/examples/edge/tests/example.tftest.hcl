mock_provider "aws" {
  source = "../mocks"
}
mock_provider "archive" {}
mock_provider "aws" {
  alias  = "global"
  source = "../mocks"
}

variables {
  repository_url  = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest    = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes  = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
  domain          = "rerank.example.com"
  certificate_arn = "arn:aws:acm:us-east-1:123456789012:certificate/1"
}

run "limits_by_key" {
  assert {
    condition     = jsondecode(aws_wafv2_web_acl.this.rule_json)[0].Statement.RateBasedStatement.CustomKeys[0].Header.Name == "authorization"
    error_message = "one key is counted as one caller"
  }
}

run "nothing_is_cached" {
  assert {
    condition     = aws_cloudfront_distribution.this.web_acl_id == aws_wafv2_web_acl.this.arn && aws_cloudfront_distribution.this.default_cache_behavior[0].cache_policy_id == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
    error_message = "the firewall is in front, and answers are not kept"
  }
}
