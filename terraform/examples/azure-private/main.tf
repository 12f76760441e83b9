# The app in a network, for that network alone: no address on the internet, and a name that resolves inside.

resource "azurerm_resource_group" "this" {
  name     = "reranker-private"
  location = var.location
}

resource "azurerm_user_assigned_identity" "this" {
  name                = "reranker"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
}

resource "azurerm_role_assignment" "pull" {
  scope                = var.registry.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.this.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_virtual_network" "this" {
  name                = "reranker"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  address_space       = ["10.30.0.0/16"]
}

resource "azurerm_network_security_group" "apps" {
  name                = "reranker-apps"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
}

resource "azurerm_network_security_rule" "https" {
  name                        = "https-from-the-network"
  resource_group_name         = azurerm_resource_group.this.name
  network_security_group_name = azurerm_network_security_group.apps.name
  priority                    = 100
  direction                   = "Inbound"
  access                      = "Allow"
  protocol                    = "Tcp"
  source_port_range           = "*"
  destination_port_range      = "443"
  source_address_prefix       = "VirtualNetwork"
  destination_address_prefix  = "VirtualNetwork"
}

resource "azurerm_subnet" "apps" {
  name                 = "apps"
  resource_group_name  = azurerm_resource_group.this.name
  virtual_network_name = azurerm_virtual_network.this.name
  address_prefixes     = ["10.30.0.0/27"]

  delegation {
    name = "apps"

    service_delegation {
      name    = "Microsoft.App/environments"
      actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
    }
  }
}

resource "azurerm_subnet_network_security_group_association" "apps" {
  subnet_id                 = azurerm_subnet.apps.id
  network_security_group_id = azurerm_network_security_group.apps.id
}

module "reranker" {
  source = "../../modules/container-app"

  name                = "reranker"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  registry_server     = var.registry.server
  identity_id         = azurerm_user_assigned_identity.this.id
  image               = var.image
  api_keys            = var.api_keys
  external            = false
  subnet_id           = azurerm_subnet.apps.id
  keep_logs           = false

  depends_on = [azurerm_role_assignment.pull, azurerm_subnet_network_security_group_association.apps]
}

# Without it the app's name resolves nowhere.
resource "azurerm_private_dns_zone" "this" {
  name                = module.reranker.default_domain
  resource_group_name = azurerm_resource_group.this.name
}

resource "azurerm_private_dns_zone_virtual_network_link" "this" {
  name                = "reranker"
  private_dns_zone_id = azurerm_private_dns_zone.this.id
  virtual_network_id  = azurerm_virtual_network.this.id
}

resource "azurerm_private_dns_a_record" "every_app" {
  name                = "*"
  private_dns_zone_id = azurerm_private_dns_zone.this.id
  ttl                 = 300
  records             = [module.reranker.static_ip_address]
}

output "url" {
  description = "URL for clients in the network."
  value       = module.reranker.url
}
