variable "repository_url" {
  description = "Repository of ECR that has the image; its policy must let Lambda fetch from it (terraform/aws makes one)."
  type        = string
}

variable "image_digest" {
  description = "Digest (sha256:…) of the image."
  type        = string
}

variable "api_key_hashes" {
  description = "Hashes (sha256:…) of API keys."
  type        = list(string)
}
