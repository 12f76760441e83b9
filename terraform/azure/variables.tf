variable "subscription_id" {
  description = "Subscription to deploy into."
  type        = string

  validation {
    condition     = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.subscription_id))
    error_message = "The subscription's id is a UUID in lower case."
  }
}

variable "name" {
  description = "What every resource's name begins with."
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
  description = "The CPU app's image in the registry, by digest: `reranker@sha256:…`. Where it is null, there is no CPU app: so the registry can be made before there is an image."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[a-z0-9]+([._/-][a-z0-9]+)*@sha256:[0-9a-f]{64}$", var.image))
    error_message = "The image is named by its digest, without the registry: reranker@sha256:…"
  }
}

variable "gpu_image" {
  description = "The GPU app's image (`Dockerfile.gpu`) in the registry, by digest. Where it is null, there is no GPU app."
  type        = string
  default     = null

  validation {
    condition     = var.gpu_image == null || can(regex("^[a-z0-9]+([._/-][a-z0-9]+)*@sha256:[0-9a-f]{64}$", var.gpu_image))
    error_message = "The GPU image is named by its digest, without the registry: reranker-gpu@sha256:…"
  }
}

variable "functions_image" {
  description = "The function app's image (`azure/Dockerfile`) in the registry: its repository, and a tag that is never written again. Where it is null, there is no function app."
  type = object({
    repository = string
    tag        = string
  })
  default = null

  validation {
    condition = var.functions_image == null || (
      can(regex("^[a-z0-9]+([._/-][a-z0-9]+)*$", var.functions_image.repository))
      && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.functions_image.tag))
    )
    error_message = "The function app's image is named by repository and tag, without the registry."
  }

  validation {
    condition     = var.functions_image == null || try(var.functions_image.tag, "") != "latest"
    error_message = "The tag `latest` does not say what runs: instances that start later may run something else."
  }
}

# ---- who may call

variable "api_keys" {
  description = "Keys of which a request must bring one. Hashes (`sha256:…`) keep the keys themselves out of Terraform's state."
  type        = list(string)
  default     = []
  sensitive   = true

  validation {
    condition     = alltrue([for key in var.api_keys : length(key) >= 16 && !strcontains(key, ",")])
    error_message = "A key has at least 16 characters and no comma."
  }

  validation {
    condition     = alltrue([for key in var.api_keys : !startswith(key, "sha256:") || can(regex("^sha256:[0-9a-f]{64}$", key))])
    error_message = "A key's hash is sha256: and 64 hexadecimal digits in lower case."
  }
}

variable "api_keys_secret" {
  description = "Instead of `api_keys`: a Key Vault secret that holds them, separated by commas. `uri` is its address without a version, `resource_id` what the role to read it is given on."
  type = object({
    uri         = string
    resource_id = string
  })
  default = null

  validation {
    condition     = var.api_keys_secret == null || can(regex("^https://[a-z0-9-]+\\.vault\\.[a-z.]+/secrets/[A-Za-z0-9-]+$", var.api_keys_secret.uri))
    error_message = "The secret's address is https://VAULT.vault.azure.net/secrets/NAME, without a version, so that a new version is taken up."
  }

  validation {
    condition     = var.api_keys_secret == null || can(regex("^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.KeyVault/vaults/[^/]+/secrets/[^/]+$", var.api_keys_secret.resource_id))
    error_message = "The secret's resource id is /subscriptions/…/providers/Microsoft.KeyVault/vaults/VAULT/secrets/NAME."
  }

  validation {
    condition     = var.api_keys_secret == null || length(var.api_keys) == 0
    error_message = "Keys come from api_keys or from api_keys_secret, not from both."
  }
}

variable "allow_anonymous" {
  description = "Let everyone who reaches the service call it. Without it, keys are required."
  type        = bool
  default     = false

  validation {
    condition     = var.allow_anonymous || length(var.api_keys) > 0 || var.api_keys_secret != null
    error_message = "Without keys everyone may call: set api_keys or api_keys_secret, or say so with allow_anonymous = true."
  }
}

variable "external" {
  description = "Whether the container apps can be reached from the internet. If not, only from within their environment, or from the network of `subnet_id`."
  type        = bool
  default     = true
}

variable "allowed_ip_ranges" {
  description = "IPv4 address ranges (CIDR) that may reach the container apps and the function app; all where it is empty."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for range in var.allowed_ip_ranges : can(cidrnetmask(range))])
    error_message = "An address range is one of IPv4, written 203.0.113.0/24; Container Apps takes no other."
  }
}

variable "subnet_id" {
  description = "Subnet, delegated to Microsoft.App/environments, for the CPU app's environment; a network of Azure's own where it is null."
  type        = string
  default     = null

  validation {
    condition     = var.subnet_id == null || can(regex("^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/virtualNetworks/[^/]+/subnets/[^/]+$", var.subnet_id))
    error_message = "The subnet is given by its resource id."
  }
}

# ---- the CPU app

variable "cpu" {
  description = "Size of the CPU app's replicas. The Consumption profile sells vCPUs and memory one to two."
  type = object({
    vcpus      = optional(number, 4)
    memory_gib = optional(number, 8)
  })
  default = {}

  validation {
    condition     = var.cpu.vcpus >= 0.25 && var.cpu.vcpus <= 4 && floor(var.cpu.vcpus * 4) == var.cpu.vcpus * 4
    error_message = "vCPUs go from 0.25 to 4, by quarters."
  }

  validation {
    condition     = var.cpu.memory_gib == var.cpu.vcpus * 2
    error_message = "Memory in GiB is twice the vCPUs: 0.5 and 1, 2 and 4, 4 and 8."
  }
}

variable "scale" {
  description = "Replicas of the CPU app. With `min_replicas = 0` nothing runs, and nothing is paid for, while nobody calls."
  type = object({
    min_replicas        = optional(number, 0)
    max_replicas        = optional(number, 10)
    concurrent_requests = optional(number, 4)
    cooldown_seconds    = optional(number, 300)
  })
  default = {}

  validation {
    condition     = var.scale.min_replicas >= 0 && var.scale.max_replicas >= 1 && var.scale.max_replicas <= 300 && var.scale.min_replicas <= var.scale.max_replicas
    error_message = "Replicas: 0 <= min_replicas <= max_replicas <= 300, and max_replicas is at least 1."
  }

  validation {
    condition     = var.scale.concurrent_requests >= 1 && floor(var.scale.concurrent_requests) == var.scale.concurrent_requests
    error_message = "A replica takes at least one request at a time."
  }

  validation {
    condition     = var.scale.cooldown_seconds >= 1 && var.scale.cooldown_seconds <= 3600
    error_message = "The cool-down is 1 to 3600 seconds."
  }
}

variable "revision_mode" {
  description = "Single: a new revision takes over once it is ready. Multiple: it gets no requests until traffic is moved to it (`traffic`)."
  type        = string
  default     = "Single"

  validation {
    condition     = contains(["Single", "Multiple"], var.revision_mode)
    error_message = "The revision mode is Single or Multiple."
  }
}

variable "traffic" {
  description = "With `revision_mode = \"Multiple\"`: percent of the CPU app's requests by revision suffix; the key `latest` is the newest revision."
  type        = map(number)
  default     = { latest = 100 }

  validation {
    condition     = sum(values(var.traffic)) == 100 && alltrue([for percent in values(var.traffic) : percent >= 0])
    error_message = "The percentages are not negative and add up to 100."
  }

  validation {
    condition     = var.revision_mode == "Multiple" || (length(var.traffic) == 1 && contains(keys(var.traffic), "latest"))
    error_message = "In the revision mode Single the newest revision gets everything."
  }
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

  validation {
    condition     = contains(["Consumption-GPU-NC8as-T4", "Consumption-GPU-NC24-A100"], var.gpu.profile)
    error_message = "The GPU profile is Consumption-GPU-NC8as-T4 or Consumption-GPU-NC24-A100."
  }

  validation {
    condition     = var.gpu.min_replicas >= 0 && var.gpu.max_replicas >= 1 && var.gpu.max_replicas <= 300 && var.gpu.min_replicas <= var.gpu.max_replicas
    error_message = "Replicas: 0 <= min_replicas <= max_replicas <= 300, and max_replicas is at least 1."
  }

  validation {
    condition     = var.gpu.concurrent_requests >= 1 && floor(var.gpu.concurrent_requests) == var.gpu.concurrent_requests
    error_message = "A replica takes at least one request at a time."
  }

  validation {
    condition     = var.gpu.cooldown_seconds >= 1 && var.gpu.cooldown_seconds <= 3600
    error_message = "The cool-down is 1 to 3600 seconds."
  }
}

# ---- the function app

variable "functions" {
  description = "The function app's plan: EP1 (1 vCPU, 3.5 GB), EP2 (2, 7) or EP3 (4, 14), and its instances. At least one runs, and is paid for, at all times."
  type = object({
    sku           = optional(string, "EP3")
    min_instances = optional(number, 1)
    max_instances = optional(number, 3)
  })
  default = {}

  validation {
    condition     = contains(["EP1", "EP2", "EP3"], var.functions.sku)
    error_message = "The plan is EP1, EP2 or EP3."
  }

  validation {
    condition     = var.functions.min_instances >= 1 && var.functions.max_instances <= 20 && var.functions.min_instances <= var.functions.max_instances
    error_message = "Instances: 1 <= min_instances <= max_instances <= 20."
  }
}

# ---- the program

variable "environment" {
  description = "Settings of the program (docs/reference/configuration.md) for all apps: MAX_LENGTH, CACHE_PAIRS, CORS_ORIGINS and so on."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Z][A-Z0-9_]*$", name))])
    error_message = "The program's variables are written in capitals."
  }

  validation {
    condition = length(setintersection(keys(var.environment), [
      "API_KEYS", "DEVICE", "HOST", "OTEL_EXPORTER_OTLP_ENDPOINT", "PORT", "REQUEST_TIMEOUT_S", "SHUTDOWN_GRACE_S",
    ])) == 0
    error_message = "API_KEYS, DEVICE, HOST, OTEL_EXPORTER_OTLP_ENDPOINT, PORT, REQUEST_TIMEOUT_S and SHUTDOWN_GRACE_S are set from other variables."
  }
}

variable "request_timeout_seconds" {
  description = "Most seconds for one request. Less than what the fronts wait: 240 seconds at Container Apps, 230 at Functions."
  type        = number
  default     = 220

  validation {
    condition     = var.request_timeout_seconds >= 1 && var.request_timeout_seconds <= 225
    error_message = "A request has 1 to 225 seconds: then the program still answers before Azure's front gives up."
  }
}

variable "otlp_endpoint" {
  description = "Collector that the program sends traces to, as OTLP over HTTP; none where it is null."
  type        = string
  default     = null

  validation {
    condition     = var.otlp_endpoint == null || can(regex("^https?://[^/ ]+", var.otlp_endpoint))
    error_message = "The collector is given by its address: http://collector:4318."
  }
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
  description = "Most gigabytes of logs taken in on one day; -1 for no limit."
  type        = number
  default     = 1

  validation {
    condition     = var.log_daily_quota_gb == -1 || var.log_daily_quota_gb > 0
    error_message = "The daily quota is more than 0 GB, or -1 for none."
  }
}

variable "alert_email" {
  description = "Where alerts go; there are none where it is null."
  type        = string
  default     = null

  validation {
    condition     = var.alert_email == null || can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", var.alert_email))
    error_message = "Alerts go to a mail address."
  }
}
