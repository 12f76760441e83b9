# What variables refuse: the checks of all variables that a run lists must fail, and no other's.

mock_provider "azurerm" {}

variables {
  name                       = "reranker"
  suffix                     = "abc123"
  resource_group_name        = "reranker-rg"
  location                   = "westeurope"
  registry                   = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ContainerRegistry/registries/reranker", server = "reranker.azurecr.io" }
  image                      = { repository = "reranker-functions", tag = "1.0.0" }
  log_analytics_workspace_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.OperationalInsights/workspaces/logs"
  api_keys                   = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]
}

run "a_short_key" {
  command = plan

  variables {
    api_keys = ["short"]
  }

  expect_failures = [var.api_keys]
}

run "two_keys_in_one" {
  command = plan

  variables {
    api_keys = ["one-long-key-here,another-long-key"]
  }

  expect_failures = [var.api_keys]
}

run "a_hash_that_was_cut" {
  command = plan

  variables {
    api_keys = ["sha256:0123456789abcdef"]
  }

  expect_failures = [var.api_keys]
}

run "keys_from_two_sources" {
  command = plan

  variables {
    api_keys_secret = {
      uri         = "https://keys.vault.azure.net/secrets/reranker"
      resource_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/keys/providers/Microsoft.KeyVault/vaults/keys/secrets/reranker"
    }
  }

  expect_failures = [var.api_keys_secret]
}

run "a_secrets_version" {
  command = plan

  variables {
    api_keys = []
    api_keys_secret = {
      uri         = "https://keys.vault.azure.net/secrets/reranker/0123456789abcdef0123456789abcdef"
      resource_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/keys/providers/Microsoft.KeyVault/vaults/keys/secrets/reranker"
    }
  }

  expect_failures = [var.api_keys_secret]
}

run "a_role_on_the_whole_vault" {
  command = plan

  variables {
    api_keys = []
    api_keys_secret = {
      uri         = "https://keys.vault.azure.net/secrets/reranker"
      resource_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/keys/providers/Microsoft.KeyVault/vaults/keys"
    }
  }

  expect_failures = [var.api_keys_secret]
}

run "no_keys_unless_it_is_said" {
  command = plan

  variables {
    api_keys = []
  }

  expect_failures = [var.allow_anonymous]
}

run "settings_that_the_program_does_not_have" {
  command = plan

  variables {
    environment             = { max_length = "512" }
    request_timeout_seconds = 300
    otlp_endpoint           = "collector:4318"
  }

  expect_failures = [var.environment, var.request_timeout_seconds, var.otlp_endpoint]
}

run "settings_that_have_variables_of_their_own" {
  command = plan

  variables {
    environment = { API_KEYS = "in-the-open-for-everyone" }
  }

  expect_failures = [var.environment]
}

run "what_app_service_does_not_take" {
  command = plan

  variables {
    name              = "reranker-of-the-search"
    suffix            = "A"
    location          = "West Europe"
    image             = { repository = "reranker-functions", tag = "latest" }
    plan              = { sku = "Y1" }
    allowed_ip_ranges = ["2001:db8::/32"]
  }

  expect_failures = [var.name, var.suffix, var.location, var.image, var.plan, var.allowed_ip_ranges]
}

run "an_image_of_elsewhere_and_no_instance" {
  command = plan

  variables {
    image = { repository = "other.azurecr.io:443/reranker", tag = "1.0.0" }
    plan  = { min_instances = 0 }
  }

  expect_failures = [var.image, var.plan]
}

run "fewer_instances_than_the_least" {
  command = plan

  variables {
    plan = { min_instances = 4, max_instances = 3 }
  }

  expect_failures = [var.plan]
}
