variable "name" {
  description = "Name of the function. The state machine (`NAME-bulk`), the roles and the bucket derive theirs from it."
  type        = string
  default     = "reranker"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    error_message = "name: 3 to 24 small letters, digits and hyphens, beginning with a letter."
  }
}

variable "service" {
  description = "Settings that the bulk function shares with the one that callers reach: the output `service` of the module `lambda`."
  type = object({
    image_uri              = string
    architecture           = string
    ephemeral_storage_mb   = number
    environment            = map(string)
    assume_role_policy     = string
    statements             = any
    vpc_subnet_ids         = list(string)
    vpc_security_group_ids = list(string)
    log_retention_days     = number
    kms_key_arn            = optional(string)
    tracing                = string
    alarm_actions          = list(string)
  })
}

variable "force_destroy" {
  description = "Whether `terraform destroy` may remove the bucket with its objects."
  type        = bool
  default     = false
}

variable "memory_mb" {
  description = "Memory of an instance of the bulk function, as memory_mb."
  type        = number
  default     = 3538
  validation {
    condition     = var.memory_mb >= 1769 && var.memory_mb <= 10240 && floor(var.memory_mb) == var.memory_mb
    error_message = "memory_mb: 1769 (one vCPU) to 10240 (six)."
  }
}

variable "batch_pairs" {
  description = "Maximum pairs of one call. A call must end within two minutes. Its texts must fit into 150 kB; longer texts make smaller batches by themselves."
  type        = number
  default     = 50
  validation {
    condition     = var.batch_pairs >= 1 && var.batch_pairs <= 1000
    error_message = "batch_pairs: 1 to 1000, the service's MAX_PAIRS."
  }
}

variable "concurrency" {
  description = "Maximum instances of the bulk function at a time. They count towards the account's limit."
  type        = number
  default     = 5
  validation {
    condition     = var.concurrency >= 1 && var.concurrency <= 10000
    error_message = "concurrency: 1 to 10000."
  }
}

variable "tolerated_failures" {
  description = "Percentage of pairs that may fail before the run is aborted. A refused pair has not failed: its row gives the reason."
  type        = number
  default     = 1
  validation {
    condition     = var.tolerated_failures >= 0 && var.tolerated_failures <= 100
    error_message = "tolerated_failures: 0 to 100."
  }
}

variable "retention_days" {
  description = "Days that files of pairs and their scores are kept."
  type        = number
  default     = 30
  validation {
    condition     = var.retention_days >= 1
    error_message = "retention_days: at least 1."
  }
}
