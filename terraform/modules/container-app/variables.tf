variable "name" {
  description = "Name of the app and of its environment."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "The name has 3 to 32 lower-case letters, digits and single hyphens, and begins with a letter."
  }
}

variable "resource_group_name" {
  description = "Resource group to deploy into."
  type        = string
}

variable "resource_group_id" {
  description = "The group's id. Only an environment with GPUs needs it."
  type        = string
  default     = null

  validation {
    condition     = var.gpu_profile == null || var.resource_group_id != null
    error_message = "An environment with GPUs needs resource_group_id."
  }
}

variable "location" {
  description = "Region, as in `az account list-locations --query [].name`."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+[0-9]?$", var.location))
    error_message = "The region is written as in `az account list-locations --query [].name`: westeurope, eastus2."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}

variable "registry_server" {
  description = "The registry's server, with which the image's name begins: NAME.azurecr.io."
  type        = string
}

variable "identity_id" {
  description = "User-assigned identity that pulls the image and reads `api_keys_secret`. It must have both roles beforehand: AcrPull and Key Vault Secrets User."
  type        = string
}

variable "image" {
  description = "The image in the registry, by digest: `reranker@sha256:…`."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]+([._/-][a-z0-9]+)*@sha256:[0-9a-f]{64}$", var.image))
    error_message = "The image is named by its digest, without the registry: reranker@sha256:…"
  }
}

variable "log_analytics_workspace_id" {
  description = "Log Analytics workspace for the environment's logs; null for none."
  type        = string
  default     = null
}

variable "keep_logs" {
  description = "Whether logs go to `log_analytics_workspace_id`. A separate variable, as the id of a workspace is unknown before it exists."
  type        = bool
  default     = true

  validation {
    condition     = !var.keep_logs || var.log_analytics_workspace_id != null
    error_message = "Logs need log_analytics_workspace_id, or keep_logs = false."
  }
}

variable "api_keys" {
  description = "API keys; a request must carry one. Hashes (`sha256:…`) keep the keys themselves out of Terraform's state."
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
  description = "Instead of `api_keys`: a Key Vault secret that holds them, separated by commas. `uri` is its address without a version. `resource_id` is the scope of the role that reads it."
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
  description = "Whether everyone who reaches the service may call it. If not, keys are required."
  type        = bool
  default     = false

  validation {
    condition     = var.allow_anonymous || length(var.api_keys) > 0 || var.api_keys_secret != null
    error_message = "Without keys everyone may call: set api_keys or api_keys_secret, or say so with allow_anonymous = true."
  }
}

variable "external" {
  description = "Whether the app can be reached from the internet. If not, only its environment or the network of `subnet_id` reaches it."
  type        = bool
  default     = true
}

variable "allowed_ip_ranges" {
  description = "IPv4 address ranges (CIDR) that may reach the app; empty for all."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for range in var.allowed_ip_ranges : can(cidrnetmask(range))])
    error_message = "An address range is one of IPv4, written 203.0.113.0/24; Container Apps takes no other."
  }
}

variable "subnet_id" {
  description = "Subnet for the environment, delegated to Microsoft.App/environments; null for a network of Azure's own."
  type        = string
  default     = null

  validation {
    condition     = var.subnet_id == null || can(regex("^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/virtualNetworks/[^/]+/subnets/[^/]+$", var.subnet_id))
    error_message = "The subnet is given by its resource id."
  }
}

variable "gpu_profile" {
  description = "Workload profile with a GPU: Consumption-GPU-NC8as-T4 or Consumption-GPU-NC24-A100; null for CPUs alone. With a GPU a replica is the whole machine, and `size` has no effect."
  type        = string
  default     = null

  validation {
    condition     = var.gpu_profile == null || contains(["Consumption-GPU-NC8as-T4", "Consumption-GPU-NC24-A100"], coalesce(var.gpu_profile, "-"))
    error_message = "The GPU profile is Consumption-GPU-NC8as-T4 or Consumption-GPU-NC24-A100."
  }
}

variable "size" {
  description = "Size of a replica. The Consumption profile has 2 GiB of memory for each vCPU."
  type = object({
    vcpus      = optional(number, 4)
    memory_gib = optional(number, 8)
  })
  default = {}

  validation {
    condition     = var.size.vcpus >= 0.25 && var.size.vcpus <= 4 && floor(var.size.vcpus * 4) == var.size.vcpus * 4
    error_message = "vCPUs go from 0.25 to 4, by quarters."
  }

  validation {
    condition     = var.size.memory_gib == var.size.vcpus * 2
    error_message = "Memory in GiB is twice the vCPUs: 0.5 and 1, 2 and 4, 4 and 8."
  }
}

variable "scale" {
  description = "Number of replicas. With `min_replicas = 0` nothing runs while nobody calls, and nothing is paid for."
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
  description = "Single: a new revision takes over once it is ready. Multiple: it gets no requests until `traffic` moves some to it."
  type        = string
  default     = "Single"

  validation {
    condition     = contains(["Single", "Multiple"], var.revision_mode)
    error_message = "The revision mode is Single or Multiple."
  }
}

variable "traffic" {
  description = "With `revision_mode = \"Multiple\"`: percent of the requests by revision suffix; the key `latest` is the newest revision."
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

variable "environment" {
  description = "Settings of the program (docs/reference/configuration.md): MAX_LENGTH, CACHE_PAIRS, CORS_ORIGINS and so on."
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
  description = "Timeout of one request in seconds. It must be less than the front's own: 240 seconds at Container Apps, 230 at Functions."
  type        = number
  default     = 220

  validation {
    condition     = var.request_timeout_seconds >= 1 && var.request_timeout_seconds <= 225
    error_message = "A request has 1 to 225 seconds: then the program still answers before Azure's front gives up."
  }
}

variable "otlp_endpoint" {
  description = "Collector that receives the program's traces, as OTLP over HTTP; null for none."
  type        = string
  default     = null

  validation {
    condition     = var.otlp_endpoint == null || can(regex("^https?://[^/ ]+", var.otlp_endpoint))
    error_message = "The collector is given by its address: http://collector:4318."
  }
}

variable "alert_action_group_id" {
  description = "Action group that alerts notify."
  type        = string
  default     = null
}

variable "alerts" {
  description = "Whether there are alerts. A separate variable, as the id of a group is unknown before it exists."
  type        = bool
  default     = false

  validation {
    condition     = !var.alerts || var.alert_action_group_id != null
    error_message = "Alerts need alert_action_group_id."
  }
}
