# What variables refuse: the checks of all variables that a run lists must fail, and no other's.

mock_provider "azurerm" {}
mock_provider "azapi" {}
mock_provider "random" {}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
  image           = "reranker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  api_keys        = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]
}

run "names_and_places_that_azure_does_not_know" {
  command = plan

  variables {
    subscription_id    = "production"
    name               = "1-reranker"
    location           = "West Europe"
    registry_sku       = "Free"
    subnet_id          = "apps"
    allowed_ip_ranges  = ["2001:db8::/32"]
    log_retention_days = 7
    log_daily_quota_gb = 0
    alert_email        = "operators"
    tags               = { for number in range(50) : "tag${number}" => "x" }
  }

  expect_failures = [
    var.subscription_id,
    var.name,
    var.location,
    var.registry_sku,
    var.subnet_id,
    var.allowed_ip_ranges,
    var.log_retention_days,
    var.log_daily_quota_gb,
    var.alert_email,
    var.tags,
  ]
}

run "a_name_too_long_for_what_is_appended" {
  command = plan

  variables {
    name = "reranker-of-the-search"
  }

  expect_failures = [var.name]
}

run "images_that_may_change" {
  command = plan

  variables {
    image           = "reranker:latest"
    gpu_image       = "reranker-gpu:1.0.0"
    functions_image = { repository = "reranker-functions", tag = "latest" }
  }

  expect_failures = [var.image, var.gpu_image, var.functions_image]
}

run "images_of_elsewhere" {
  command = plan

  variables {
    image           = "other.azurecr.io:443/reranker@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
    gpu_image       = "Reranker GPU@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
    functions_image = { repository = "other.azurecr.io:443/reranker", tag = "1.0.0" }
  }

  expect_failures = [var.image, var.gpu_image, var.functions_image]
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

run "sizes_between_those_that_are_sold" {
  command = plan

  variables {
    cpu           = { vcpus = 1.1, memory_gib = 2.2 }
    scale         = { min_replicas = 3, max_replicas = 2 }
    revision_mode = "Canary"
    gpu           = { profile = "NC24-A100" }
    functions     = { sku = "Y1" }
  }

  expect_failures = [
    var.cpu,
    var.scale,
    var.revision_mode,
    var.gpu,
    var.functions,
  ]
}

run "memory_that_does_not_go_with_the_vcpus" {
  command = plan

  variables {
    cpu       = { vcpus = 2, memory_gib = 8 }
    scale     = { max_replicas = 301 }
    gpu       = { max_replicas = 0 }
    functions = { min_instances = 0 }
  }

  expect_failures = [var.cpu, var.scale, var.gpu, var.functions]
}

run "more_than_four_vcpus" {
  command = plan

  variables {
    cpu       = { vcpus = 8, memory_gib = 16 }
    scale     = { concurrent_requests = 0 }
    gpu       = { concurrent_requests = 0.5 }
    functions = { min_instances = 4, max_instances = 3 }
  }

  expect_failures = [var.cpu, var.scale, var.gpu, var.functions]
}

run "replicas_that_never_cool_down" {
  command = plan

  variables {
    scale = { cooldown_seconds = 86400 }
    gpu   = { cooldown_seconds = 0 }
  }

  expect_failures = [var.scale, var.gpu]
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
