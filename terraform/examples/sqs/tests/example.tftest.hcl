mock_provider "aws" {
  source = "../mocks"
}
mock_provider "archive" {}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  api_key_hashes = ["sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"]
  machine_key    = "0123456789abcdef0123456789abcdef"
}

run "messages_become_http_events" {
  assert {
    condition     = jsondecode(aws_sfn_state_machine.this.definition).States["Each message"].ItemProcessor.States.Score.Arguments.Payload.rawPath == "/rerank" && aws_pipes_pipe.this.target == aws_sfn_state_machine.this.arn
    error_message = "the function takes HTTP events alone"
  }
}
