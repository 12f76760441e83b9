variable "name" {
  description = "Names everything. Two deployments in one account and region need two names; one deployment in each of two regions does not."
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
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}

# The image and its instances

variable "image_digest" {
  description = "Digest (sha256:…) of the image pushed to the repository. Empty only for the first apply, which makes the repository."
  type        = string
  default     = ""
}

variable "architecture" {
  description = "What the image was built for: x86_64 or arm64."
  type        = string
  default     = "x86_64"
}

variable "memory_mb" {
  description = "Memory of an instance. One vCPU comes with each 1,769 MB, up to six at 10,240; scoring uses all of them, so double the memory takes about half the time for the same price. On AVX2, the only vectors that AWS promises, 100 passages of 128 tokens take the bundled model 2 s at 3538 and bge-reranker-v2-m3 41 s: give that 7076 or more (docs/explain/costs.md)."
  type        = number
  default     = 3538
}

variable "timeout_s" {
  description = "Seconds of one call. The service refuses what it cannot do in them. An HTTP API gives up after 30 whatever stands here."
  type        = number
  default     = 30
}

variable "ephemeral_storage_mb" {
  description = "Size of /tmp, which only a model from S3 may need."
  type        = number
  default     = 512
}

variable "reserved_concurrency" {
  description = "Most instances at a time, which also bounds the cost; -1 for the account's own limit. A new account has 10 in all and can reserve none."
  type        = number
  default     = -1
}

# Start and roll-out

variable "start" {
  description = "How a new instance comes to its model: on-demand, snap-start or provisioned-concurrency. Lambda takes one of the last two, never both, and so does this one variable."
  type        = string
  default     = "on-demand"
}

variable "provisioned_concurrency" {
  description = "Instances that are always ready, with start = provisioned-concurrency."
  type        = number
  default     = 0
}

variable "init_budget_s" {
  description = "Seconds of Lambda's ten that an initialisation may spend on reading weights."
  type        = number
  default     = 8
}

variable "stable_version" {
  description = "Published version that the alias stays at: for a gradual roll-out, or to go back. Empty for the newest."
  type        = string
  default     = ""
}

variable "canary_weight" {
  description = "Share of calls, from 0 to 1, that the newest version gets while the alias stays at stable_version."
  type        = number
  default     = 0
}

variable "rollout" {
  description = "How CodeDeploy moves calls to a new version: AllAtOnce, Canary10Percent5Minutes and so on, after a check of the new version, and back when an alarm rises. Empty for Terraform itself: at once, or by stable_version and canary_weight. A stack that is deployed changes between the two by `terraform state mv` (README)."
  type        = string
  default     = ""
}

variable "probe_key_secret_arn" {
  description = "Secret whose text is one API key, with which the check of a new version scores. Without it, and with keys, the check only waits for /ready."
  type        = string
  default     = ""
}

variable "keep_versions" {
  description = "Versions that are kept, counted from the newest, beside those that the alias uses; older ones are removed once a day. 0 keeps all. With SnapStart each costs $13.67 a month at 3,538 MB."
  type        = number
  default     = 10
}

# Model and service

variable "create_model_bucket" {
  description = "Make a bucket for packed models."
  type        = bool
  default     = false
}

variable "model_uri" {
  description = "s3://bucket/key of a packed model, or s3://bucket/folder/ of a model folder, to load instead of the image's. The function may read what begins with it and nothing else. It goes to /tmp, so ephemeral_storage_mb must be larger than it."
  type        = string
  default     = ""
}

variable "max_length" {
  description = "Longest sequence in tokens."
  type        = number
  default     = 512
}

variable "log_level" {
  description = "error, warn, info, debug or trace."
  type        = string
  default     = "info"
}

variable "environment" {
  description = "More of the service's variables, by name."
  type        = map(string)
  default     = {}
}

# Who may call

variable "api_key_hashes" {
  description = "Hashes (sha256:…, or NAME=sha256:… for logs and limits by name) of API keys: `printf %s KEY | sha256sum`. Neither the state nor the function's settings then hold a key."
  type        = list(string)
  default     = []
}

variable "api_keys_secret_arn" {
  description = "Secret whose text is a list of keys, separated by commas. Terraform's state will hold them; needed only for clients that sign requests with a key, otherwise use api_key_hashes."
  type        = string
  default     = ""
}

variable "http_api_authorization" {
  description = "What the HTTP API itself asks for, before the service looks at its keys: NONE, AWS_IAM or JWT."
  type        = string
  default     = "NONE"
}

variable "allow_anonymous" {
  description = "Deploy an HTTP API that anyone may call."
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
  description = "Requests a second that the HTTP API lets through, of all callers together."
  type        = number
  default     = 20
}

variable "throttle_burst" {
  description = "How many may come at once above that rate."
  type        = number
  default     = 40
}

variable "vpc_subnet_ids" {
  description = "Private subnets to run in; empty for none. A VPC needs an endpoint for S3 where the model comes from there."
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
  description = "Key for images, logs, variables and buckets. Empty makes one, for a dollar a month. Its policy must let CloudWatch Logs use it. To be decided at the first apply: another key makes the registry anew, and nobody can read any more what the first one encrypted."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/.+)?$", var.kms_key_arn))
    error_message = "kms_key_arn: the ARN of a key."
  }
}

variable "metrics" {
  description = "minimal: five metrics by function, counted from the log's request lines. full: also the service's own by version, route and dialect, at $0.30 a month for each combination."
  type        = string
  default     = "minimal"
}

variable "dashboard" {
  description = "Make a dashboard of CloudWatch. An account has three for nothing; each further one costs $3 a month."
  type        = bool
  default     = true
}

variable "tracing" {
  description = "Active sends Lambda's own segments to X-Ray; PassThrough does not."
  type        = string
  default     = "PassThrough"
}

variable "otlp_endpoint" {
  description = "Collector that the service's own traces go to, as OTLP over HTTP."
  type        = string
  default     = ""
}

variable "alarm_topic_arn" {
  description = "Topic of SNS that alarms are told to."
  type        = string
  default     = ""
}

variable "alarm_p99_ms" {
  description = "Alarm when one call in a hundred takes longer."
  type        = number
  default     = 10000
}

variable "alarm_init_ms" {
  description = "Alarm when an initialisation or a restored snapshot takes longer. Lambda begins anew after 10000."
  type        = number
  default     = 9000
}

# Millions of pairs

variable "bulk" {
  description = "Also deploy what scores files of pairs: a bucket, a function of its own and a state machine."
  type        = bool
  default     = false
}

variable "bulk_memory_mb" {
  description = "Memory of an instance of the bulk function, as memory_mb."
  type        = number
  default     = 3538
}

variable "bulk_batch_pairs" {
  description = "Pairs of one call. It must be done in two minutes, and its texts must fit into 150 kB; longer ones make smaller batches by themselves."
  type        = number
  default     = 50
}

variable "bulk_concurrency" {
  description = "Most instances of the bulk function at a time. The account's limit is shared with everything else that runs in it."
  type        = number
  default     = 5
}

variable "bulk_tolerated_failures" {
  description = "Percentage of pairs that may fail before a run is given up. One that is refused has not failed: its row says why."
  type        = number
  default     = 1
}

variable "bulk_retention_days" {
  description = "Days that files of pairs and their scores are kept."
  type        = number
  default     = 30
}
