# What variables refuse: the checks of all variables that a run lists must fail, and no other's.

mock_provider "azurerm" {}
mock_provider "azapi" {}

variables {
  name                       = "reranker-cpu"
  resource_group_name        = "reranker-rg"
  location                   = "westeurope"
  registry_server            = "reranker.azurecr.io"
  identity_id                = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/apps"
  log_analytics_workspace_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg/providers/Microsoft.OperationalInsights/workspaces/logs"
  image                      = "reranker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
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

run "traffic_that_does_not_add_up" {
  command = plan

  variables {
    revision_mode = "Multiple"
    traffic       = { latest = 50, "0000001" = 40 }
  }

  expect_failures = [var.traffic]
}

run "traffic_for_a_revision_that_is_not_kept" {
  command = plan

  variables {
    traffic = { latest = 50, "0000001" = 50 }
  }

  expect_failures = [var.traffic]
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

run "places_that_azure_does_not_know" {
  command = plan

  variables {
    name              = "1-reranker"
    location          = "West Europe"
    subnet_id         = "apps"
    allowed_ip_ranges = ["2001:db8::/32"]
    image             = "reranker:latest"
    size              = { vcpus = 1.1, memory_gib = 2.2 }
    scale             = { min_replicas = 3, max_replicas = 2 }
    revision_mode     = "Canary"
  }

  expect_failures = [var.name, var.location, var.subnet_id, var.allowed_ip_ranges, var.image, var.size, var.scale, var.revision_mode]
}

run "images_of_elsewhere" {
  command = plan

  variables {
    image = "other.azurecr.io:443/reranker@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
    size  = { vcpus = 2, memory_gib = 8 }
    scale = { max_replicas = 301 }
  }

  expect_failures = [var.image, var.size, var.scale]
}

run "more_than_four_vcpus" {
  command = plan

  variables {
    size  = { vcpus = 8, memory_gib = 16 }
    scale = { concurrent_requests = 0.5 }
  }

  expect_failures = [var.size, var.scale]
}

run "replicas_that_never_cool_down" {
  command = plan

  variables {
    scale = { cooldown_seconds = 86400 }
  }

  expect_failures = [var.scale]
}

run "replicas_that_cool_down_at_once" {
  command = plan

  variables {
    scale = { cooldown_seconds = 0 }
  }

  expect_failures = [var.scale]
}

run "a_gpu_that_is_not_sold" {
  command = plan

  variables {
    gpu_profile       = "NC24-A100"
    resource_group_id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/reranker-rg"
  }

  expect_failures = [var.gpu_profile]
}

run "logs_and_alerts_without_a_place" {
  command = plan

  variables {
    log_analytics_workspace_id = null
    alerts                     = true
  }

  expect_failures = [var.keep_logs, var.alerts]
}
