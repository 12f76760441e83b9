# GitHub's workflows deploy without a stored secret: one role that may look (plan, of pull requests), one that may change (apply, of an environment).

provider "aws" {}

variable "repository" {
  description = "Repository of GitHub, as OWNER/NAME."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository: OWNER/NAME."
  }
}

variable "environment" {
  description = "Environment of GitHub whose jobs may deploy. Give it reviewers."
  type        = string
  default     = "production"
}

variable "deploy_policy_arns" {
  description = "Policies of the role that deploys."
  type        = list(string)
  default     = ["arn:aws:iam::aws:policy/PowerUserAccess"]
}

data "aws_caller_identity" "current" {}

resource "aws_iam_openid_connect_provider" "github" {
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
}

locals {
  roles = {
    plan   = { subject = "repo:${var.repository}:pull_request", policies = ["arn:aws:iam::aws:policy/ReadOnlyAccess"] }
    deploy = { subject = "repo:${var.repository}:environment:${var.environment}", policies = var.deploy_policy_arns }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.roles

  name = "reranker-github-${each.key}"
  # A deployment may build the image first.
  max_session_duration = 10800
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = aws_iam_openid_connect_provider.github.arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      # Whole strings and no wildcards: a fork, another branch or another environment is somebody else.
      Condition = {
        StringEquals = {
          "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
          "token.actions.githubusercontent.com:sub" = each.value.subject
        }
      }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "this" {
  for_each = merge([for name, role in local.roles : { for arn in role.policies : "${name} ${arn}" => { role = name, arn = arn } }]...)

  role       = aws_iam_role.this[each.value.role].name
  policy_arn = each.value.arn
}

# Terraform makes roles for the function and its neighbours, and no others.
resource "aws_iam_role_policy" "roles" {
  name = "reranker-roles"
  role = aws_iam_role.this["deploy"].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect = "Allow"
      Action = [
        "iam:AttachRolePolicy", "iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:CreateRole", "iam:DeletePolicy", "iam:DeletePolicyVersion",
        "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:GetPolicy", "iam:GetPolicyVersion", "iam:GetRole", "iam:GetRolePolicy",
        "iam:ListAttachedRolePolicies", "iam:ListInstanceProfilesForRole", "iam:ListPolicyVersions", "iam:ListRolePolicies", "iam:PassRole",
        "iam:PutRolePolicy", "iam:TagPolicy", "iam:TagRole", "iam:UpdateAssumeRolePolicy",
      ]
      Resource = [for kind in ["role", "policy"] : "arn:aws:iam::${data.aws_caller_identity.current.account_id}:${kind}/reranker-*-*"]
      }, {
      # To see at the end that nothing is left. The list knows no resources.
      Effect   = "Allow"
      Action   = ["iam:ListPolicies"]
      Resource = ["*"]
      }, {
      # Not these two themselves.
      Effect   = "Deny"
      Action   = ["iam:AttachRolePolicy", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:DetachRolePolicy", "iam:PutRolePolicy", "iam:UpdateAssumeRolePolicy"]
      Resource = ["arn:aws:iam::${data.aws_caller_identity.current.account_id}:role/reranker-github-*"]
    }]
  })
}

output "roles" {
  description = "The role's ARN, for a workflow's role-to-assume."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}
