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

variable "force_destroy" {
  description = "Whether `terraform destroy` may remove the registry with its images and the buckets with their objects. Apply it once before destroying."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
}

# The image and its instances

variable "image_digest" {
  description = "Digest (sha256:…) of the image in the repository. Leave it empty for the first apply, which makes the repository."
  type        = string
  default     = ""
}

variable "architecture" {
  description = "The image's architecture: x86_64 or arm64."
  type        = string
  default     = "x86_64"
}

variable "memory_mb" {
  description = "Memory of an instance in MB. One vCPU comes with each 1,769 MB, up to six at 10,240. Scoring uses all of them: double the memory takes about half the time for the same price. AWS promises AVX2 and no wider vectors. With AVX2, 100 passages of 128 tokens take the bundled model 2 s at 3538, and bge-reranker-v2-m3 41 s. Give the latter 7076 or more (docs/explain/costs.md)."
  type        = number
  default     = 3538
}

variable "timeout_s" {
  description = "Timeout of one call in seconds. The service refuses a request that it cannot finish in time. An HTTP API gives up after 30 seconds in any case."
  type        = number
  default     = 30
}

variable "ephemeral_storage_mb" {
  description = "Size of /tmp in MB. Only a model from S3 may need more than the default."
  type        = number
  default     = 512
}

variable "reserved_concurrency" {
  description = "Maximum instances at a time, which also bounds the cost; -1 for the account's own limit. A new account has 10 in all and can reserve none."
  type        = number
  default     = -1
}

# Start and roll-out

variable "start" {
  description = "How a new instance loads its model: on-demand, snap-start or provisioned-concurrency. Lambda does not combine the last two."
  type        = string
  default     = "on-demand"
}

variable "provisioned_concurrency" {
  description = "Number of instances that are always ready, with start = provisioned-concurrency."
  type        = number
  default     = 0
}

variable "init_budget_s" {
  description = "Seconds that an initialisation may spend on reading weights. Lambda allows ten in all."
  type        = number
  default     = 8
}

variable "stable_version" {
  description = "Published version that the alias stays at, for a gradual roll-out or a rollback. Empty for the newest."
  type        = string
  default     = ""
}

variable "canary_weight" {
  description = "Share of calls, from 0 to 1, that the newest version gets while the alias stays at stable_version."
  type        = number
  default     = 0
}

variable "rollout" {
  description = "How CodeDeploy moves calls to a new version: AllAtOnce, Canary10Percent5Minutes and so on. It checks the new version first, and moves calls back when an alarm rises. If this is empty, Terraform moves them itself: at once, or by stable_version and canary_weight. A deployed stack changes between the two by `terraform state mv` (README)."
  type        = string
  default     = ""
}

variable "probe_key_secret_arn" {
  description = "Secret that holds one API key. The check of a new version scores with it. If the service has keys and this is empty, the check only waits for /ready."
  type        = string
  default     = ""
}

variable "keep_versions" {
  description = "Number of newest versions to keep, beside those that the alias uses. Older ones are removed once a day. 0 keeps all. With SnapStart each costs $13.67 a month at 3,538 MB."
  type        = number
  default     = 10
}

# Model and service

variable "create_model_bucket" {
  description = "Whether to make a bucket for packed models."
  type        = bool
  default     = false
}

variable "model_uri" {
  description = "Model to load instead of the image's: s3://bucket/key of a packed file, or s3://bucket/folder/. The function may read keys that begin with it, and no others. It is downloaded to /tmp: ephemeral_storage_mb must be larger than the model."
  type        = string
  default     = ""
}

variable "max_length" {
  description = "Maximum length of a sequence in tokens."
  type        = number
  default     = 512
}

variable "log_level" {
  description = "Log level: error, warn, info, debug or trace."
  type        = string
  default     = "info"
}

variable "environment" {
  description = "Further environment variables of the service, by name (docs/reference/configuration.md)."
  type        = map(string)
  default     = {}
}

# Who may call

variable "api_key_hashes" {
  description = "Hashes of API keys: sha256:…, or NAME=sha256:… for logs and limits by name. `printf %s KEY | sha256sum` makes one. Neither the state nor the function's settings then hold a key."
  type        = list(string)
  default     = []
}

variable "api_keys_secret_arn" {
  description = "Secret that holds API keys, separated by commas. Terraform's state will hold them too. Only clients that sign requests with a key need this; otherwise use api_key_hashes."
  type        = string
  default     = ""
}

variable "http_api_authorization" {
  description = "Authorization by the HTTP API itself, before the service checks keys: NONE, AWS_IAM or JWT."
  type        = string
  default     = "NONE"
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
}

variable "jwt_audience" {
  description = "Audiences of the tokens, with http_api_authorization = JWT."
  type        = list(string)
  default     = []
}

variable "function_url_accounts" {
  description = "Other accounts whose IAM may let its users call the Function URL. Callers of this account need only the policy in the outputs."
  type        = list(string)
  default     = []
}

variable "throttle_rate" {
  description = "Rate limit of the HTTP API in requests a second, for all callers together."
  type        = number
  default     = 20
}

variable "throttle_burst" {
  description = "Burst limit of the HTTP API: requests that may come at once above the rate."
  type        = number
  default     = 40
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
}

# What is seen

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "KMS key for images, logs, variables and buckets. Its policy must let CloudWatch Logs use it. If this is empty, Terraform makes one, for a dollar a month. Decide at the first apply: another key replaces the registry, and data under the first key becomes unreadable."
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
}

variable "otlp_endpoint" {
  description = "Collector that receives the service's own traces, as OTLP over HTTP."
  type        = string
  default     = ""
}

variable "alarm_topic_arn" {
  description = "SNS topic that alarms notify."
  type        = string
  default     = ""
}

variable "alarm_p99_ms" {
  description = "Threshold of the latency alarm in milliseconds: it rises when one call in a hundred takes longer."
  type        = number
  default     = 10000
}

variable "alarm_init_ms" {
  description = "Threshold of the start alarm in milliseconds, for an initialisation or a restored snapshot. Lambda starts an initialisation again after 10000."
  type        = number
  default     = 9000
}

# Millions of pairs

variable "bulk" {
  description = "Whether to deploy the bulk job too, which scores files of pairs: a bucket, a function of its own and a state machine."
  type        = bool
  default     = false
}

variable "bulk_memory_mb" {
  description = "Memory of an instance of the bulk function, as memory_mb."
  type        = number
  default     = 3538
}

variable "bulk_batch_pairs" {
  description = "Maximum pairs of one call. A call must end within two minutes. Its texts must fit into 150 kB; longer texts make smaller batches by themselves."
  type        = number
  default     = 50
}

variable "bulk_concurrency" {
  description = "Maximum instances of the bulk function at a time. They count towards the account's limit."
  type        = number
  default     = 5
}

variable "bulk_tolerated_failures" {
  description = "Percentage of pairs that may fail before the run is aborted. A refused pair has not failed: its row gives the reason."
  type        = number
  default     = 1
}

variable "bulk_retention_days" {
  description = "Days that files of pairs and their scores are kept."
  type        = number
  default     = 30
}
