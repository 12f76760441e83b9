mock_provider "aws" {
  source = "../mocks"
}

variables {
  repository = "owner/serverless-reranker"
}

run "only_this_environment_deploys" {
  assert {
    condition     = jsondecode(aws_iam_role.this["deploy"].assume_role_policy).Statement[0].Condition.StringEquals["token.actions.githubusercontent.com:sub"] == "repo:owner/serverless-reranker:environment:production"
    error_message = "a whole subject, without wildcards"
  }
}

run "what_terraform_makes_it_reads_at_the_next_apply" {
  assert {
    condition = alltrue([
      for action in ["Role", "RolePolicy", "Policy"] : contains(flatten([for statement in jsondecode(aws_iam_role_policy.roles.policy).Statement : statement.Action]), "iam:Get${action}")
    ])
    error_message = "PowerUserAccess reads nothing of IAM"
  }
}

run "a_pull_request_looks" {
  assert {
    condition     = length([for key, attachment in aws_iam_role_policy_attachment.this : key if startswith(key, "plan ") && strcontains(key, "ReadOnlyAccess")]) == 1
    error_message = "plans change nothing"
  }
}
