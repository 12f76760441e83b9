terraform {
  # Conditions that look at other variables came with 1.9, what the tests say of mocks with 1.11.
  required_version = ">= 1.11.0, < 2.0.0"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "5.10.0"
    }
    azapi = {
      source  = "azure/azapi"
      version = "2.13.0"
    }
    random = {
      source  = "hashicorp/random"
      version = "3.9.1"
    }
  }
}

provider "azurerm" {
  subscription_id = var.subscription_id
  # The storage account has no keys to read it with.
  storage_use_azuread = true
  # A new subscription knows none of these; version 5 of the provider registers nothing unasked.
  resource_providers_to_register = [
    "Microsoft.App",
    "Microsoft.ContainerRegistry",
    "Microsoft.Insights",
    "Microsoft.ManagedIdentity",
    "Microsoft.OperationalInsights",
    "Microsoft.Storage",
    "Microsoft.Web",
  ]

  features {
    application_insights {
      # Azure would make an alert rule of its own, which no `terraform destroy` knows of.
      disable_generated_rule = true
    }
    resource_group {
      # What somebody else put into the group is not ours to delete.
      prevent_deletion_if_contains_resources = true
    }
  }
}

provider "azapi" {
  subscription_id = var.subscription_id
}
