mock_provider "aws" {
  source = "../mocks"
}
mock_provider "archive" {}
mock_provider "aws" {
  alias  = "second"
  source = "../mocks"
}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
  domain         = "rerank.example.com"
  zone_id        = "Z1"
  certificate_arns = {
    first  = "arn:aws:acm:eu-central-1:123456789012:certificate/1"
    second = "arn:aws:acm:us-east-1:123456789012:certificate/2"
  }
}

run "one_name_two_regions" {
  assert {
    condition     = toset([for record in aws_route53_record.this : record.set_identifier]) == toset(["eu-central-1", "us-east-1"]) && aws_route53_health_check.this["first"].resource_path == "/live"
    error_message = "each region has its record and its check"
  }
}

run "each_region_has_its_image" {
  assert {
    condition     = startswith(module.second.service.image_uri, "123456789012.dkr.ecr.us-east-1.")
    error_message = "Lambda fetches from its own region"
  }
}
