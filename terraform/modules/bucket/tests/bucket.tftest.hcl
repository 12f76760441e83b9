mock_provider "aws" {
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::bucket" }
  }
}

variables {
  name = "bucket"
}

run "private_and_versioned" {
  assert {
    condition     = aws_s3_bucket_public_access_block.this.restrict_public_buckets && aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "the bucket is private and keeps versions"
  }
  assert {
    condition     = !aws_s3_bucket.this.force_destroy && length(aws_s3_bucket_lifecycle_configuration.this.rule[0].expiration) == 0
    error_message = "objects stay unless somebody asks"
  }
}

run "objects_that_go" {
  variables {
    force_destroy = true
    expires_days  = 30
  }
  assert {
    condition     = aws_s3_bucket.this.force_destroy && aws_s3_bucket_lifecycle_configuration.this.rule[0].expiration[0].days == 30
    error_message = "what goes by itself, and what `terraform destroy` may remove"
  }
}

run "a_name_that_s3_refuses" {
  command = plan
  variables {
    name = "Bucket"
  }
  expect_failures = [var.name]
}
