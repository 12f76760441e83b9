mock_provider "aws" {
  source = "../mocks"
}
mock_provider "archive" {}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
}

run "the_model_is_read_from_the_bucket" {
  assert {
    condition     = module.reranker.service.environment.MODEL_DIR == "s3://reranker-models-123456789012-eu-central-1/bge-reranker-v2-m3/2026-11/packed.safetensors"
    error_message = "the function names the object"
  }
}
