variable "subscription_id" {
  description = "Subscription to deploy into."
  type        = string
}

variable "location" {
  description = "Region."
  type        = string
  default     = "westeurope"
}

variable "registry" {
  description = "The registry of the image: its resource id, and its server, with which image names begin."
  type        = object({ id = string, server = string })
}

variable "image" {
  description = "The image in the registry, by digest."
  type        = string
}

variable "api_keys" {
  description = "Hashes (sha256:…) of API keys."
  type        = list(string)
  sensitive   = true
}
