mock_provider "aws" {
  source = "../mocks"
}
mock_provider "archive" {}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
}

run "no_way_out" {
  assert {
    condition     = length(aws_subnet.private) == 2 && aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && aws_vpc_security_group_egress_rule.s3.prefix_list_id == aws_vpc_endpoint.s3.prefix_list_id
    error_message = "what goes out goes to S3"
  }
}

run "one_bucket" {
  variables {
    model_bucket = "models"
  }
  assert {
    condition     = jsondecode(aws_vpc_endpoint.s3.policy).Statement[0].Resource == "arn:aws:s3:::models/*"
    error_message = "the endpoint leads to the model and nowhere else"
  }
}
