mock_provider "aws" {
  source = "../mocks"
}

run "a_bucket_of_its_own" {
  assert {
    condition     = output.bucket == "terraform-state-123456789012-eu-central-1"
    error_message = "named after account and region"
  }
}
