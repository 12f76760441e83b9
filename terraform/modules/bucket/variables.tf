variable "name" {
  description = "The bucket's name. No other bucket in the world may have it."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.name))
    error_message = "name: S3 takes 3 to 63 small letters, digits, dots and hyphens."
  }
}

variable "kms_key_arn" {
  description = "Key that objects are encrypted with; AWS's own for S3 where it is null."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may remove the bucket with its objects."
  type        = bool
  default     = false
}

variable "expires_days" {
  description = "Days that objects are kept; for ever where it is null."
  type        = number
  default     = null
}
