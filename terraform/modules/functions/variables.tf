variable "name" {
  description = "Prefix of the resources' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,14}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "The name has 3 to 16 lower-case letters, digits and single hyphens, and begins with a letter."
  }
}

variable "resource_group_name" {
  description = "Resource group to deploy into."
  type        = string
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

variable "suffix" {
  description = "Suffix of lower-case letters and digits that makes the names of storage account and function app unique in Azure."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]{3,8}$", var.suffix))
    error_message = "The suffix has 3 to 8 small letters and digits."
  }
}

variable "registry" {
  description = "The container registry of the image: its resource id, and its server, with which image names begin."
  type = object({
    id     = string
    server = string
  })
}

variable "image" {
  description = "The image (`azure/Dockerfile`) in the registry: its repository, and a tag that is never reused."
  type = object({
    repository = string
    tag        = string
  })

  validation {
    condition = (
      can(regex("^[a-z0-9]+([._/-][a-z0-9]+)*$", var.image.repository))
      && can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", var.image.tag))
    )
    error_message = "The function app's image is named by repository and tag, without the registry."
  }

  validation {
    condition     = try(var.image.tag, "") != "latest"
    error_message = "The tag `latest` does not say what runs: instances that start later may run something else."
  }
}

variable "log_analytics_workspace_id" {
  description = "Workspace in which Application Insights keeps its data."
  type        = string
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

variable "allowed_ip_ranges" {
  description = "IPv4 address ranges (CIDR) that may reach the function app; empty for all."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for range in var.allowed_ip_ranges : can(cidrnetmask(range))])
    error_message = "An address range is one of IPv4, written 203.0.113.0/24; Container Apps takes no other."
  }
}

variable "plan" {
  description = "The function app's plan: EP1 (1 vCPU, 3.5 GB, about $150 a month), EP2 (2, 7, $300) or EP3 (4, 14, $600), and its instances. At least one runs, and is paid for, at all times."
  type = object({
    sku           = optional(string, "EP1")
    min_instances = optional(number, 1)
    max_instances = optional(number, 3)
  })
  default = {}

  validation {
    condition     = contains(["EP1", "EP2", "EP3"], var.plan.sku)
    error_message = "The plan is EP1, EP2 or EP3."
  }

  validation {
    condition     = var.plan.min_instances >= 1 && var.plan.max_instances <= 20 && var.plan.min_instances <= var.plan.max_instances
    error_message = "Instances: 1 <= min_instances <= max_instances <= 20."
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

variable "otlp_endpoint" {
  description = "Collector that receives the program's traces, as OTLP over HTTP; null for none."
  type        = string
  default     = null

  validation {
    condition     = var.otlp_endpoint == null || can(regex("^https?://[^/ ]+", var.otlp_endpoint))
    error_message = "The collector is given by its address: http://collector:4318."
  }
}
