mock_provider "azurerm" {
  override_during = plan

  mock_resource "azurerm_subnet" {
    defaults = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/r/providers/Microsoft.Network/virtualNetworks/reranker/subnets/apps" }
  }
  mock_resource "azurerm_container_app_environment" {
    defaults = { static_ip_address = "10.30.0.10", default_domain = "example.westeurope.azurecontainerapps.io" }
  }
}
mock_provider "azapi" {
  mock_resource "azapi_resource" {
    defaults = { output = { properties = { configuration = { ingress = { fqdn = "reranker.example.azurecontainerapps.io" } } } } }
  }
}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
  registry        = { id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/r/providers/Microsoft.ContainerRegistry/registries/reranker", server = "reranker.azurecr.io" }
  image           = "reranker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
  api_keys        = ["sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"]
}

run "the_name_resolves_inside" {
  command = plan

  assert {
    condition     = azurerm_private_dns_zone.this.name == "example.westeurope.azurecontainerapps.io" && azurerm_private_dns_a_record.every_app.records == toset(["10.30.0.10"])
    error_message = "the zone leads to the environment"
  }
}
