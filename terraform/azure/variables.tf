variable "subscription_id" {
  description = "Subscription to deploy into."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.subscription_id))
    error_message = "The subscription's id is a UUID in lower case."
  }
}

variable "name" {
  description = "Prefix of every resource's name."
  type        = string
  default     = "reranker"

  validation {
    # With the longest ending it must fit into a container app's 32 and a storage account's 24 characters.
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "The name has 3 to 16 lower-case letters, digits and single hyphens, and begins with a letter."
  }
}

variable "location" {
  description = "Region of everything but the GPU app."
  type        = string
  default     = "westeurope"

  validation {
    condition     = can(regex("^[a-z]+[0-9]?$", var.location))
    error_message = "The region is written as in `az account list-locations --query [].name`: westeurope, eastus2."
  }
}

variable "tags" {
  description = "Tags of every resource, beside `application`."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(var.tags) <= 49
    error_message = "Azure takes 50 tags for a resource, and one is ours."
  }
}

# ---- registry and images

variable "registry_sku" {
  description = "Tier of the container registry: Basic, Standard or Premium."
  type        = string
  default     = "Basic"

  validation {
    condition     = contains(["Basic", "Standard", "Premium"], var.registry_sku)
    error_message = "The registry's tier is Basic, Standard or Premium."
  }
}

variable "image" {
  description = "The CPU app's image in the registry, by digest: `reranker@sha256:…`. Null deploys no CPU app; so the registry can be made before its first image."
  type        = string
  default     = null
}

variable "gpu_image" {
  description = "The GPU app's image (`Dockerfile.gpu`) in the registry, by digest. Null deploys no GPU app."
  type        = string
  default     = null
}

variable "functions_image" {
  description = "The function app's image (`azure/Dockerfile`) in the registry: its repository, and a tag that is never reused. Null deploys no function app."
  type = object({
    repository = string
    tag        = string
  })
  default = null
}

# ---- who may call

variable "api_keys" {
  description = "API keys; a request must carry one. Hashes (`sha256:…`) keep the keys themselves out of Terraform's state."
  type        = list(string)
  default     = []
  sensitive   = true
}

variable "api_keys_secret" {
  description = "Instead of `api_keys`: a Key Vault secret that holds them, separated by commas. `uri` is its address without a version. `resource_id` is the scope of the role that reads it."
  type = object({
    uri         = string
    resource_id = string
  })
  default = null
}

variable "allow_anonymous" {
  description = "Whether everyone who reaches the service may call it. If not, keys are required."
  type        = bool
  default     = false
}

variable "external" {
  description = "Whether the container apps can be reached from the internet. If not, only their environment or the network of `subnet_id` reaches them."
  type        = bool
  default     = true
}

variable "allowed_ip_ranges" {
  description = "IPv4 address ranges (CIDR) that may reach the container apps and the function app; empty for all."
  type        = list(string)
  default     = []
}

variable "subnet_id" {
  description = "Subnet for the CPU app's environment, delegated to Microsoft.App/environments; null for a network of Azure's own."
  type        = string
  default     = null
}

# ---- the CPU app

variable "cpu" {
  description = "Size of the CPU app's replicas. The Consumption profile has 2 GiB of memory for each vCPU."
  type = object({
    vcpus      = optional(number, 4)
    memory_gib = optional(number, 8)
  })
  default = {}
}

variable "scale" {
  description = "Number of replicas of the CPU app. With `min_replicas = 0` nothing runs while nobody calls, and nothing is paid for."
  type = object({
    min_replicas        = optional(number, 0)
    max_replicas        = optional(number, 10)
    concurrent_requests = optional(number, 4)
    cooldown_seconds    = optional(number, 300)
  })
  default = {}
}

variable "revision_mode" {
  description = "Single: a new revision takes over once it is ready. Multiple: it gets no requests until `traffic` moves some to it."
  type        = string
  default     = "Single"
}

variable "traffic" {
  description = "With `revision_mode = \"Multiple\"`: percent of the CPU app's requests by revision suffix; the key `latest` is the newest revision."
  type        = map(number)
  default     = { latest = 100 }
}

# ---- the GPU app

variable "gpu" {
  description = "The GPU app's profile, its region (where that profile is sold and the subscription has quota), and its replicas."
  type = object({
    profile             = optional(string, "Consumption-GPU-NC8as-T4")
    location            = optional(string, "swedencentral")
    min_replicas        = optional(number, 0)
    max_replicas        = optional(number, 1)
    concurrent_requests = optional(number, 16)
    cooldown_seconds    = optional(number, 300)
  })
  default = {}
}

# ---- the function app

variable "functions" {
  description = "The function app's plan: EP1 (1 vCPU, 3.5 GB, about $150 a month), EP2 (2, 7, $300) or EP3 (4, 14, $600), and its instances. At least one runs, and is paid for, at all times."
  type = object({
    sku           = optional(string, "EP1")
    min_instances = optional(number, 1)
    max_instances = optional(number, 3)
  })
  default = {}
}

# ---- the program

variable "environment" {
  description = "Settings of the program (docs/reference/configuration.md) for all apps: MAX_LENGTH, CACHE_PAIRS, CORS_ORIGINS and so on."
  type        = map(string)
  default     = {}
}

variable "request_timeout_seconds" {
  description = "Timeout of one request in seconds. It must be less than the front's own: 240 seconds at Container Apps, 230 at Functions."
  type        = number
  default     = 220
}

variable "otlp_endpoint" {
  description = "Collector that receives the program's traces, as OTLP over HTTP; null for none."
  type        = string
  default     = null
}

# ---- logs and alerts

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = var.log_retention_days >= 30 && var.log_retention_days <= 730
    error_message = "Log Analytics keeps logs for 30 to 730 days."
  }
}

variable "log_daily_quota_gb" {
  description = "Maximum gigabytes of logs taken in on one day; -1 for no limit."
  type        = number
  default     = 1

  validation {
    condition     = var.log_daily_quota_gb == -1 || var.log_daily_quota_gb > 0
    error_message = "The daily quota is more than 0 GB, or -1 for none."
  }
}

variable "alert_email" {
  description = "Action group for alerts; null for no alerts."
  type        = string
  default     = null

  validation {
    condition     = var.alert_email == null || can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alert_email))
    error_message = "Alerts go to a mail address."
  }
}
