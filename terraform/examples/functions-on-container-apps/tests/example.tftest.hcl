mock_provider "azurerm" {
  override_during = plan
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

run "a_function_app_that_scales_to_zero" {
  command = plan

  assert {
    condition     = azapi_resource.function_app.body.kind == "functionapp" && azapi_resource.function_app.body.properties.template.scale.minReplicas == 0
    error_message = "kind=functionapp, from zero"
  }
}

run "keys_are_a_secret" {
  command = plan

  assert {
    condition     = one([for env in azapi_resource.function_app.body.properties.template.containers[0].env : env.secretRef if env.name == "API_KEYS"]) == "api-keys"
    error_message = "no variable holds a key"
  }
}
