mock_provider "aws" {
  source = "../mocks"
}

variables {
  repository_url = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker"
  image_digest   = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "serverless" {
  assert {
    condition     = aws_sagemaker_endpoint_configuration.this.production_variants[0].serverless_config[0].memory_size_in_mb == 6144 && aws_sagemaker_model.this.primary_container[0].environment.PORT == "8080"
    error_message = "from zero, on the port that SageMaker calls"
  }
}

run "instances" {
  variables {
    instance_type = "ml.c7i.xlarge"
  }
  assert {
    condition     = aws_sagemaker_endpoint_configuration.this.production_variants[0].instance_type == "ml.c7i.xlarge" && length(aws_sagemaker_endpoint_configuration.this.production_variants[0].serverless_config) == 0
    error_message = "instances instead"
  }
}
