variable "name" {
  description = "Name of all resources. Two deployments in one account and region need two names; deployments in two regions may share one."
  type        = string
  default     = "reranker"
  validation {
    condition = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name))
    # The longest name made of it, a bucket's with account and region, then has at most the 63 characters that S3 takes.
    error_message = "name: 3 to 24 small letters, digits and hyphens, beginning with a letter."
  }
}

# The image and its instances

variable "repository_url" {
  description = "Repository of ECR that has the image, as in 123456789012.dkr.ecr.eu-central-1.amazonaws.com/reranker. Its policy must let Lambda fetch from it."
  type        = string
}

variable "image_digest" {
  description = "Digest (sha256:…) of the image pushed to the repository."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(sha256:[0-9a-f]{64})?$", var.image_digest))
    error_message = "image_digest: sha256: and 64 hex digits, as `docker push` prints it; a tag could be moved."
  }
}

variable "architecture" {
  description = "The image's architecture: x86_64 or arm64."
  type        = string
  default     = "x86_64"
  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture: x86_64 or arm64."
  }
}

variable "memory_mb" {
  description = "Memory of an instance in MB. One vCPU comes with each 1,769 MB, up to six at 10,240. Scoring uses all of them: double the memory takes about half the time for the same price. AWS promises AVX2 and no wider vectors. With AVX2, 100 passages of 128 tokens take the bundled model 2 s at 3538, and bge-reranker-v2-m3 41 s. Give the latter 7076 or more (docs/explain/costs.md)."
  type        = number
  default     = 3538
  validation {
    condition     = var.memory_mb >= 1769 && var.memory_mb <= 10240 && floor(var.memory_mb) == var.memory_mb
    error_message = "memory_mb: 1769 (one vCPU) to 10240 (six)."
  }
}

variable "timeout_s" {
  description = "Timeout of one call in seconds. The service refuses a request that it cannot finish in time. An HTTP API gives up after 30 seconds in any case."
  type        = number
  default     = 30
  validation {
    condition     = var.timeout_s >= 10 && var.timeout_s <= 900
    error_message = "timeout_s: 10 to 900."
  }
}

variable "ephemeral_storage_mb" {
  description = "Size of /tmp in MB. Only a model from S3 may need more than the default."
  type        = number
  default     = 512
  validation {
    condition     = var.ephemeral_storage_mb >= 512 && var.ephemeral_storage_mb <= 10240
    error_message = "ephemeral_storage_mb: 512 to 10240."
  }
  validation {
    condition     = var.start != "snap-start" || var.ephemeral_storage_mb == 512
    error_message = "ephemeral_storage_mb: SnapStart allows 512 and no more."
  }
}

variable "reserved_concurrency" {
  description = "Maximum instances at a time, which also bounds the cost; -1 for the account's own limit. A new account has 10 in all and can reserve none."
  type        = number
  default     = -1
  validation {
    condition     = var.reserved_concurrency == -1 || var.reserved_concurrency >= 1
    error_message = "reserved_concurrency: -1, or at least 1."
  }
}

# Start and roll-out

variable "start" {
  description = "How a new instance loads its model: on-demand, snap-start or provisioned-concurrency. Lambda does not combine the last two."
  type        = string
  default     = "on-demand"
  validation {
    condition     = contains(["on-demand", "snap-start", "provisioned-concurrency"], var.start)
    error_message = "start: on-demand, snap-start or provisioned-concurrency."
  }
}

variable "provisioned_concurrency" {
  description = "Number of instances that are always ready, with start = provisioned-concurrency."
  type        = number
  default     = 0
  validation {
    condition     = (var.start == "provisioned-concurrency") == (var.provisioned_concurrency > 0)
    error_message = "provisioned_concurrency: above 0 with start = provisioned-concurrency, 0 with any other."
  }
}

variable "init_budget_s" {
  description = "Seconds that an initialisation may spend on reading weights. Lambda allows ten in all."
  type        = number
  default     = 8
  validation {
    condition     = var.init_budget_s > 0 && var.init_budget_s <= 9
    error_message = "init_budget_s: above 0 and up to 9."
  }
}

variable "stable_version" {
  description = "Published version that the alias stays at, for a gradual roll-out or a rollback. Empty for the newest."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^([1-9][0-9]*)?$", var.stable_version))
    error_message = "stable_version: a version's number."
  }
}

variable "canary_weight" {
  description = "Share of calls, from 0 to 1, that the newest version gets while the alias stays at stable_version."
  type        = number
  default     = 0
  validation {
    condition     = var.canary_weight >= 0 && var.canary_weight < 1
    error_message = "canary_weight: from 0 to less than 1."
  }
  validation {
    condition     = var.canary_weight == 0 || var.stable_version != ""
    error_message = "canary_weight: needs stable_version, which the other calls go to."
  }
}

variable "capacity_provider" {
  description = "Lambda Managed Instances to run on: the capacity provider's ARN, memory for each vCPU (2, 4 or 8 GiB), maximum requests at a time in one environment. Not tried on AWS; see examples/managed-instances."
  type = object({
    arn                 = string
    memory_gib_per_vcpu = optional(number, 2)
    max_concurrency     = optional(number, 4)
  })
  default = null
  validation {
    condition     = var.capacity_provider == null || contains([2, 4, 8], try(var.capacity_provider.memory_gib_per_vcpu, 2))
    error_message = "capacity_provider: 2, 4 or 8 GiB for each vCPU."
  }
  validation {
    condition     = var.capacity_provider == null || (var.start == "on-demand" && var.reserved_concurrency == -1 && length(var.vpc_subnet_ids) == 0)
    error_message = "capacity_provider: its instances are always warm and have a network of their own, so start is on-demand, nothing is reserved and vpc_subnet_ids is empty."
  }
}

variable "rollout" {
  description = "How CodeDeploy moves calls to a new version: AllAtOnce, Canary10Percent5Minutes and so on. It checks the new version first, and moves calls back when an alarm rises. If this is empty, Terraform moves them itself: at once, or by stable_version and canary_weight. A deployed stack changes between the two by `terraform state mv` (README)."
  type        = string
  default     = ""
  validation {
    condition = contains([
      "", "AllAtOnce", "Canary10Percent5Minutes", "Canary10Percent10Minutes", "Canary10Percent15Minutes", "Canary10Percent30Minutes",
      "Linear10PercentEvery1Minute", "Linear10PercentEvery2Minutes", "Linear10PercentEvery3Minutes", "Linear10PercentEvery10Minutes",
    ], var.rollout)
    error_message = "rollout: empty, or a configuration of CodeDeploy without CodeDeployDefault.Lambda before it, such as Canary10Percent5Minutes."
  }
  validation {
    condition     = var.rollout == "" || var.canary_weight == 0
    error_message = "rollout: CodeDeploy shifts calls by itself; canary_weight is for a roll-out by hand."
  }
}

variable "probe_key_secret_arn" {
  description = "Secret that holds one API key. The check of a new version scores with it. If the service has keys and this is empty, the check only waits for /ready."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)?$", var.probe_key_secret_arn))
    error_message = "probe_key_secret_arn: the ARN of a secret of Secrets Manager."
  }
}

variable "keep_versions" {
  description = "Number of newest versions to keep, beside those that the alias uses. Older ones are removed once a day. 0 keeps all. With SnapStart each costs $13.67 a month at 3,538 MB."
  type        = number
  default     = 10
  validation {
    condition     = var.keep_versions >= 0 && floor(var.keep_versions) == var.keep_versions && var.keep_versions != 1
    error_message = "keep_versions: 0, or at least 2, so that there is one to go back to."
  }
}

# Model and service

variable "model_uri" {
  description = "Model to load instead of the image's: s3://bucket/key of a packed file, or s3://bucket/folder/. The function may read keys that begin with it, and no others. It is downloaded to /tmp: ephemeral_storage_mb must be larger than the model."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^*?\\s]+)?$", var.model_uri))
    error_message = "model_uri: s3://bucket/key."
  }
}

variable "max_length" {
  description = "Maximum length of a sequence in tokens."
  type        = number
  default     = 512
  validation {
    condition     = var.max_length >= 8 && var.max_length <= 8192
    error_message = "max_length: 8 to 8192."
  }
}

variable "log_level" {
  description = "Log level: error, warn, info, debug or trace."
  type        = string
  default     = "info"
  validation {
    condition     = contains(["error", "warn", "info", "debug", "trace"], var.log_level)
    error_message = "log_level: error, warn, info, debug or trace."
  }
}

variable "environment" {
  description = "Further environment variables of the service, by name (docs/reference/configuration.md)."
  type        = map(string)
  default     = {}
  validation {
    condition     = length(setintersection(keys(var.environment), ["API_KEYS", "EMF_METRICS", "MODEL_DIR", "MAX_LENGTH", "INIT_BUDGET_S", "LOG_LEVEL", "OTEL_EXPORTER_OTLP_ENDPOINT"])) == 0
    error_message = "environment: API_KEYS, EMF_METRICS, MODEL_DIR, MAX_LENGTH, INIT_BUDGET_S, LOG_LEVEL and OTEL_EXPORTER_OTLP_ENDPOINT have variables of their own here."
  }
}

# Who may call

variable "api_key_hashes" {
  description = "Hashes of API keys: sha256:…, or NAME=sha256:… for logs and limits by name. `printf %s KEY | sha256sum` makes one. Neither the state nor the function's settings then hold a key."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for hash in var.api_key_hashes : can(regex("^([A-Za-z0-9._-]{1,64}=)?sha256:[0-9a-f]{64}$", hash))])
    error_message = "api_key_hashes: each is sha256: and 64 hex digits, with NAME= before it where the key has a name."
  }
}

variable "api_keys_secret_arn" {
  description = "Secret that holds API keys, separated by commas. Terraform's state will hold them too. Only clients that sign requests with a key need this; otherwise use api_key_hashes."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:.+)?$", var.api_keys_secret_arn))
    error_message = "api_keys_secret_arn: the ARN of a secret of Secrets Manager."
  }
}

variable "http_api_authorization" {
  description = "Authorization by the HTTP API itself, before the service checks keys: NONE, AWS_IAM or JWT."
  type        = string
  default     = "NONE"
  validation {
    condition     = contains(["NONE", "AWS_IAM", "JWT"], var.http_api_authorization)
    error_message = "http_api_authorization: NONE, AWS_IAM or JWT."
  }
  validation {
    condition = (
      var.http_api_authorization != "NONE" || var.allow_anonymous || length(var.api_key_hashes) > 0 || var.api_keys_secret_arn != ""
    )
    error_message = "http_api_authorization: NONE without API keys lets in everyone on the internet; allow_anonymous = true says that this is meant."
  }
}

variable "allow_anonymous" {
  description = "Whether to deploy an HTTP API that anyone may call."
  type        = bool
  default     = false
}

variable "jwt_issuer" {
  description = "Issuer of the tokens, with http_api_authorization = JWT."
  type        = string
  default     = ""
  validation {
    condition     = (var.http_api_authorization == "JWT") == startswith(var.jwt_issuer, "https://")
    error_message = "jwt_issuer: an https:// address with http_api_authorization = JWT, empty otherwise."
  }
}

variable "jwt_audience" {
  description = "Audiences of the tokens, with http_api_authorization = JWT."
  type        = list(string)
  default     = []
  validation {
    condition     = var.http_api_authorization != "JWT" || length(var.jwt_audience) > 0
    error_message = "jwt_audience: at least one with http_api_authorization = JWT."
  }
}

variable "function_url_accounts" {
  description = "Other accounts whose IAM may let its users call the Function URL. Callers of this account need only the policy in the outputs."
  type        = list(string)
  default     = []
  validation {
    condition     = alltrue([for account in var.function_url_accounts : can(regex("^[0-9]{12}$", account))])
    error_message = "function_url_accounts: account ids of 12 digits."
  }
}

variable "throttle_rate" {
  description = "Rate limit of the HTTP API in requests a second, for all callers together."
  type        = number
  default     = 20
  validation {
    condition     = var.throttle_rate >= 1 && var.throttle_rate <= 10000
    error_message = "throttle_rate: 1 to 10000."
  }
}

variable "throttle_burst" {
  description = "Burst limit of the HTTP API: requests that may come at once above the rate."
  type        = number
  default     = 40
  validation {
    condition     = var.throttle_burst >= 1 && var.throttle_burst <= 5000
    error_message = "throttle_burst: 1 to 5000."
  }
}

variable "vpc_subnet_ids" {
  description = "Private subnets to run in; empty for none. If the model comes from S3, the VPC needs an endpoint for it."
  type        = list(string)
  default     = []
}

variable "vpc_security_group_ids" {
  description = "Security groups of the function in the VPC."
  type        = list(string)
  default     = []
  validation {
    condition     = (length(var.vpc_security_group_ids) > 0) == (length(var.vpc_subnet_ids) > 0)
    error_message = "vpc_security_group_ids: go together with vpc_subnet_ids."
  }
}

# What is seen

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30
  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days: a number of days that CloudWatch knows (1, 3, 5, 7, 14, 30, 60, 90, …, 3653)."
  }
}

variable "kms_key_arn" {
  description = "KMS key for logs and the function's variables; empty for AWS's own. Its policy must let CloudWatch Logs use it."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+)?$", var.kms_key_arn))
    error_message = "kms_key_arn: the ARN of a key."
  }
}

variable "metrics" {
  description = "minimal: five metrics of the function, counted from the log's request lines. full: also the service's own by version, route and dialect, at $0.30 a month for each combination."
  type        = string
  default     = "minimal"
  validation {
    condition     = contains(["minimal", "full"], var.metrics)
    error_message = "metrics: minimal or full."
  }
  validation {
    condition     = var.metrics != "" && contains(["info", "debug", "trace"], var.log_level) && lookup(var.environment, "LOG_FORMAT", "json") == "json"
    error_message = "metrics: they and the alarms are counted from the log's request lines, so log_level is info or finer and LOG_FORMAT is json."
  }
}

variable "dashboard" {
  description = "Whether to make a CloudWatch dashboard. The first three of an account are free; each further one costs $3 a month."
  type        = bool
  default     = true
}

variable "tracing" {
  description = "Active sends Lambda's own segments to X-Ray; PassThrough does not."
  type        = string
  default     = "PassThrough"
  validation {
    condition     = contains(["Active", "PassThrough"], var.tracing)
    error_message = "tracing: Active or PassThrough."
  }
}

variable "otlp_endpoint" {
  description = "Collector that receives the service's own traces, as OTLP over HTTP."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(https?://\\S+)?$", var.otlp_endpoint))
    error_message = "otlp_endpoint: an http:// or https:// address."
  }
}

variable "alarm_topic_arn" {
  description = "SNS topic that alarms notify."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:.+)?$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn: the ARN of a topic."
  }
}

variable "alarm_p99_ms" {
  description = "Threshold of the latency alarm in milliseconds: it rises when one call in a hundred takes longer."
  type        = number
  default     = 10000
  validation {
    condition     = var.alarm_p99_ms > 0 && var.alarm_p99_ms <= 900000
    error_message = "alarm_p99_ms: above 0 and up to 900000."
  }
}

variable "alarm_init_ms" {
  description = "Threshold of the start alarm in milliseconds, for an initialisation or a restored snapshot. Lambda starts an initialisation again after 10000."
  type        = number
  default     = 9000
  validation {
    condition     = var.alarm_init_ms > 0 && var.alarm_init_ms <= 130000
    error_message = "alarm_init_ms: above 0 and up to 130000."
  }
}
