mock_provider "aws" {
  source = "../mocks"
}
mock_provider "archive" {}

variables {
  repository_url     = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest       = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes     = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
  subnet_ids         = ["subnet-1"]
  security_group_ids = ["sg-1"]
}

run "instances_with_amx" {
  assert {
    condition     = contains(aws_lambda_capacity_provider.this.instance_requirements[0].allowed_instance_types, "c7i.xlarge") && aws_lambda_capacity_provider.this.capacity_provider_scaling_config[0].max_vcpu_count == 32
    error_message = "the types are chosen, and their number is bounded"
  }
}
